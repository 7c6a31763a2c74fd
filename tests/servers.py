"""Fixtures: a Redis, and this project's own processes, as real as they come (and as `nursery` forks them).

`redis_url` is an empty Redis (its own database number for each test). `launch` starts `python -m realtime` as a process
and answers a `Server` to talk to, stop or kill; whatever a test leaves running is stopped after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import redis
import socketio

from realtime import embedded
from tests.nursery import Started, nursery

ROOT = Path(__file__).parent.parent
JAVASCRIPT = Path(__file__).parent / "js"
JWT_SECRET = "a-secret-for-the-tests-of-callmeter"
AGORA_APP_ID = "970CA35de60c44645bbae8a215061b33"
AGORA_APP_CERTIFICATE = "5CFd2fd1755d40ecb72977518be15d3b"
PATIENCE_S = 30.0
"""How long a test waits for what must come: no measure of anything, but long enough for a slow machine."""


@pytest.fixture(scope="session")
def redis_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for the whole run (or the one TEST_REDIS_URL names)."""
    if given := os.environ.get("TEST_REDIS_URL"):
        yield given
        return
    with embedded.redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """The Redis, emptied."""
    with redis.from_url(redis_server_url) as client:
        client.flushall()
    return redis_server_url


# Each process of the run has ports of its own, since one that is found free is taken a second later only.
_PORTS = range(10_081, 32_000)[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8 :: 8]


def free_port() -> int:
    """A port nobody listens on, which every client goes to: above the last that browsers and fetch refuse (10080).

    Below those that outgoing connections get, which may take one before it is used.
    """
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """One process of ours."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.port = int(env["PORT"])
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        with log.open("ab") as out:
            self.process: Started | subprocess.Popen[bytes] = (
                nursery.start(arguments, env, log, cwd)
                if sys.platform == "linux"
                else subprocess.Popen(
                    [sys.executable, *arguments], env=env, cwd=cwd, stdout=out, stderr=out, stdin=subprocess.DEVNULL
                )
            )

    def wait_for(self, line: str, timeout_s: float = 2 * PATIENCE_S) -> None:
        """Until the log says `line`."""
        deadline = time.monotonic() + timeout_s
        while line not in (text := self.log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the process did not say {line!r}:\n{text[-4000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 2 * PATIENCE_S) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the process did not stop:\n{self.log.read_text(errors='replace')[-4000:]}") from None


Launch = Callable[..., Server]


def environment(database_url: str, redis_url: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """What a process of ours is started with: nothing of this one's but where programs are."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PORT": str(free_port()),
        "JWT_SECRET": JWT_SECRET,
        "AGORA_APP_ID": AGORA_APP_ID,
        "AGORA_APP_CERTIFICATE": AGORA_APP_CERTIFICATE,
        "LOG_FORMAT": "json",
        # No test needs Stripe but those that bring one.
        "STRIPE_SECRET_KEY": "sk_test_nobody",
        "STRIPE_API_BASE": "http://127.0.0.1:9",
    } | {name: str(value) for name, value in settings.items()}


@pytest.fixture
def launch(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Launch]:
    """Start `python -m realtime [role]` with settings as keyword arguments; waits until it serves."""
    with launching(database_url, redis_url, tmp_path) as start:
        yield start


@contextlib.contextmanager
def launching(database_url: str, redis_url: str, log_dir: Path) -> Iterator[Launch]:
    """What `launch` answers, for servers that outlive one test."""
    started: list[Server] = []
    numbers = itertools.count(1)

    def start(role: str = "web", *, module: str = "realtime", wait: bool = True, **settings: Any) -> Server:
        env = environment(database_url, redis_url, settings)
        server = Server(["-m", module, role], env, log_dir / f"{role}-{next(numbers)}.log")
        started.append(server)
        if wait:
            server.wait_for('"event": "working"' if role == "worker" else '"event": "serving"')
        return server

    try:
        yield start
    finally:  # a test that fails within a `with` leaves no process behind
        for server in started:
            if server.process.poll() is None:
                server.stop()


class Tab:
    """A browser tab: an official Socket.IO client that remembers what it was told."""

    def __init__(self, server: Server, user: str, token: str) -> None:
        self.server, self.user, self.token = server, user, token
        self.client = socketio.AsyncClient(reconnection=False)
        self.heard: list[tuple[str, Any]] = []
        self.client.on("*", self._hear)

    async def _hear(self, event: str, data: Any = None) -> None:
        self.heard.append((event, data))

    async def connect(self, **options: Any) -> Tab:
        await self.client.connect(
            self.server.url, auth={"token": self.token}, transports=["websocket"], wait_timeout=PATIENCE_S, **options
        )
        return self

    async def ask(self, event: str, payload: Any = None, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        answer: dict[str, Any] = await self.client.call(event, {} if payload is None else payload, timeout=timeout_s)
        return answer

    @property
    def sid(self) -> str:
        sid: str = self.client.get_sid()
        return sid

    def told(self, event: str) -> list[Any]:
        return [data for name, data in self.heard if name == event]

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self.client.disconnect()


class JavaScriptTab:
    """The same, with the official JavaScript client in a Node process."""

    def __init__(self, server: Server, user: str, token: str, transports: str, *, reconnect: bool = False) -> None:
        self.server, self.user, self.token, self.transports = server, user, token, transports
        self.reconnect = reconnect
        self.heard: list[tuple[str, Any]] = []
        self.sid = ""
        self.refused: dict[str, Any] | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)

    async def connect(self) -> JavaScriptTab:
        command = ["node", "tab.mjs", self.server.url, self.token, self.transports]
        command += ["reconnect"] if self.reconnect else []
        self._process = await asyncio.create_subprocess_exec(
            *command, cwd=JAVASCRIPT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        await eventually(lambda: self.sid or self.refused)
        return self

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "heard" in said:
                self.heard.append((said["heard"], said.get("data")))
            elif "answer" in said:
                self._answers.pop(said["id"]).set_result(said["answer"])
            elif "connected" in said:
                self.sid = said["connected"]
            elif "refused" in said:
                self.refused = said

    async def ask(self, event: str, payload: Any = None, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "event": event, "payload": {} if payload is None else payload})
        self._process.stdin.write(line.encode() + b"\n")
        return await asyncio.wait_for(answer, timeout_s)

    def told(self, event: str) -> list[Any]:
        return [data for name, data in self.heard if name == event]

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), PATIENCE_S)
        await self._reader


@pytest.fixture(scope="session")
def javascript() -> None:
    """The official JavaScript client, installed from its lock file once."""
    if shutil.which("npm") is None:
        reason = "npm is not on this machine: the official JavaScript client cannot be tried"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with (JAVASCRIPT / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes, one installation
        if not (JAVASCRIPT / "node_modules" / "socket.io-client").exists():
            subprocess.run(["npm", "ci", "--silent"], cwd=JAVASCRIPT, check=True, timeout=120)


@pytest.fixture
async def open_javascript_tab(javascript: None) -> AsyncIterator[Opens]:
    tabs: list[JavaScriptTab] = []

    async def connect(
        server: Server, user: str, *, transports: str = "websocket", reconnect: bool = False, **claims: Any
    ) -> JavaScriptTab:
        tab = JavaScriptTab(server, user, token_of(user, **claims), transports, reconnect=reconnect)
        tabs.append(tab)
        return await tab.connect()

    yield connect
    for tab in tabs:
        await tab.close()


Opens = Callable[..., Any]


@pytest.fixture
async def open_tab() -> AsyncIterator[Opens]:
    """Connect a tab of a user to a server; all are closed after the test."""
    tabs: list[Tab] = []

    async def connect(server: Server, user: str, **claims: Any) -> Tab:
        tab = Tab(server, user, token_of(user, **claims))
        tabs.append(tab)
        return await tab.connect()

    yield connect
    for tab in tabs:
        await tab.close()


def token_of(user: str, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3600} | claims, JWT_SECRET, algorithm="HS256")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def eventually(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Wait until `condition` (sync or async) answers something true, and answer that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come true within {timeout_s} s")
        await asyncio.sleep(0.02)
