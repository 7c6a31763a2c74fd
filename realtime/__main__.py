"""`python -m realtime`: the server. `python -m realtime worker`: metering and jobs without sockets."""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before anything is started has nothing to say

gc.disable()  # for as long as modules are imported: nearly all they make stays, and looking through it takes long

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from ledger.database_url import BadDatabaseUrl
from ledger.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from ledger.end_signals import Ended, end_on_signals, held_signals, ignore_signals
from realtime import config, embedded, event_loop
from realtime.adapters import logs
from realtime.composition import StartFailed
from realtime.config import Settings
from realtime.event_loop import Program
from realtime.main import DOCUMENTS, document, run_web
from realtime.processes import Place, run_workers
from realtime.worker import run_worker

gc.freeze()  # what is imported by now is never looked through again, neither while serving nor at the end
gc.enable()

log = structlog.get_logger()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m realtime", description=__doc__)
    parser.add_argument(
        "role",
        nargs="?",
        choices=["web", "worker", *DOCUMENTS],
        default="web",
        help="serve (the default); meter and do jobs only; or print a document of the interface",
    )
    parser.add_argument("--workers", type=int, help="server processes behind the one port (WORKERS)")
    for told_by_the_parent, kind in (("number", int), ("directory", Path), ("line", int)):
        parser.add_argument(f"--worker-{told_by_the_parent}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--migrate", action="store_true", help="bring the database's schema up to date first")
    chosen = parser.parse_args(arguments)
    place = None
    if chosen.worker_number is not None:
        place = Place(chosen.worker_number, chosen.worker_directory, chosen.worker_line)
    try:
        settings = config.load(**({"workers": chosen.workers} if chosen.workers else {}))
        if chosen.role in DOCUMENTS:
            sys.stdout.write(document(settings, chosen.role))
            return 0
        try:
            worker = place.number if place else None
            logs.configure(log_format=settings.log_format, log_dir=settings.log_dir, role=chosen.role, worker=worker)
        except OSError as error:
            raise StartFailed("LOG_DIR: cannot be written to", error) from error
        _allow_open_files()
        end_on_signals()
        with complete(settings, migrate=chosen.migrate) as completed:
            try:
                program = _program(chosen.role, completed, settings, place)
                with held_signals():  # until it has handlers of its own: no loop half made, no coroutine never awaited
                    event_loop.run(program)
            finally:
                ignore_signals()
    except (
        config.SettingsError, StartFailed, embedded.EmbeddedError, EmbeddedPostgresError, BadDatabaseUrl, OSError,
    ) as error:  # fmt: skip
        return _fail(error, place)
    except Ended as ended:  # while nothing served yet, or by a second signal
        return ended.exit_code
    except KeyboardInterrupt:  # while the settings are read
        return 128 + signal.SIGINT
    return 0


def _program(role: str, settings: Settings, given: Settings, place: Place | None) -> Program:
    if role == "worker":
        return functools.partial(run_worker, settings)
    if place is None and settings.workers > 1:
        return functools.partial(run_workers, settings, given)
    return functools.partial(run_web, settings, place)


def _allow_open_files() -> None:
    """As many as the system lets us: each tab is one. The usual soft limit of 1,024 is for programs that select()."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415  (not to be had everywhere)

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _fail(error: Exception, place: Place | None) -> int:
    line = " ".join(str(error).split())
    if place is not None and not place.told:
        place.cannot_serve(line)  # the parent says it once for all of them
    else:
        print(f"callmeter: {line}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def complete(settings: Settings, *, migrate: bool) -> Iterator[Settings]:
    """The settings with embedded servers, started for as long as this block runs, in the place of missing ones."""
    missing: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if settings.database_url is None:
            missing["database_url"] = stack.enter_context(EmbeddedPostgres())
        if migrate or missing:
            _migrate(missing.get("database_url") or settings.database_url or "")
        if settings.redis_url is None:
            missing["redis_url"] = stack.enter_context(embedded.redis())
        if missing:
            log.info("embedded servers", started=sorted(name.removesuffix("_url") for name in missing), data=".data/")
        if settings.stripe_secret_key is None:
            missing |= _stripe_stand_in(settings, stack)
        yield settings.model_copy(update=missing)


def _migrate(url: str) -> None:
    # Alembic takes a quarter of the time a start takes, and most starts migrate nothing.
    import psycopg  # noqa: PLC0415

    from ledger import migrations  # noqa: PLC0415

    try:
        migrations.up(url)
    except psycopg.Error as error:
        raise StartFailed("DATABASE_URL: the database cannot be migrated", error) from error


def _stripe_stand_in(settings: Settings, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Settings that name a stand-in for Stripe in the place of a missing account; development only."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    stand_in = stack.enter_context(embedded.stripe(f"http://{host}:{settings.port}/api/v1/webhooks/stripe"))
    log.info("no STRIPE_SECRET_KEY: a stand-in for Stripe takes payments, no money moves", url=stand_in.url)
    return {
        "stripe_secret_key": "sk_test_stand_in",
        "stripe_publishable_key": settings.stripe_publishable_key or "pk_test_stand_in",
        "stripe_api_base": stand_in.url,
        "stripe_webhook_secret": (*settings.stripe_webhook_secret, stand_in.webhook_secret),
    }


if __name__ == "__main__":
    sys.exit(main())
