"""What the contract's tests share: a service for a whole module, people to use it, and a way to look into its database.

A test here knows only what the contract says: HTTP by aiohttp, sockets by the official clients, the database by SQL.
Starting a server costs seconds, so the tests of a module share one (`serve` starts it) and keep out of each other's way
by using people of their own: `someone("ann")` is a user no other test has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg

from ledger.database_url import DatabaseUrl
from tests.servers import PATIENCE_S, ROOT, Server, Tab, eventually, token_of


@dataclass
class Service:
    """Processes of ours on a PostgreSQL database and a Redis of their own."""

    servers: list[Server]
    database_url: str
    redis_url: str
    start: Callable[..., Server]

    @property
    def server(self) -> Server:
        return self.servers[0]

    @property
    def url(self) -> str:
        return self.server.url


Serve = Callable[..., contextlib.AbstractContextManager[Service]]


def someone(name: str = "someone") -> str:
    """The id of a user nobody else has."""
    return f"{name}-{uuid4().hex[:8]}"


@dataclass
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Any
    text: str
    json: Any


class Browser:
    """Sends HTTP requests to a service in a user's name."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(
        self, server: Server | Service, method: str, path: str, *, user: str | None = None, token: str | None = None,
        claims: dict[str, Any] | None = None, headers: dict[str, str] | None = None, **options: Any,
    ) -> Answer:  # fmt: skip
        """As `user` (with a token made here), with `token`, or as nobody."""
        headers = dict(headers or {})
        if user is not None:
            token = token_of(user, **(claims or {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self._session.request(method, server.url + path, headers=headers, **options) as answer:
            text = await answer.text(errors="replace")
            body = await answer.json(content_type=None) if "json" in answer.headers.get("Content-Type", "") else None
            return Answer(answer.status, answer.headers, text, body)

    async def get(self, server: Server | Service, path: str, **options: Any) -> Answer:
        return await self.request(server, "GET", path, **options)

    async def post(self, server: Server | Service, path: str, **options: Any) -> Answer:
        return await self.request(server, "POST", path, **options)

    async def put(self, server: Server | Service, path: str, **options: Any) -> Answer:
        return await self.request(server, "PUT", path, **options)

    async def grant(self, server: Server | Service, user: str, tokens: int) -> None:
        """Each grant by an admin of its own."""
        answer = await self.post(
            server, "/api/v1/admin/grants", user=someone("admin"), claims={"role": "admin"},
            json={"userId": user, "tokens": tokens, "reason": "test"}, headers={"Idempotency-Key": str(uuid4())},
        )  # fmt: skip
        assert answer.status == 200, answer.text

    async def balance(self, server: Server | Service, user: str) -> int:
        answer = await self.get(server, "/api/v1/balance", user=user)
        assert answer.status == 200, answer.text
        balance: int = answer.json["balance"]
        return balance


def refused(answer: Answer, status: int, code: str | None = None) -> None:
    """The answer is an error as RFC 9457 has it, with a stable code."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert isinstance(answer.json["code"], str)
    assert answer.json["code"]
    assert answer.json.get("status", status) == status
    if code is not None:
        assert answer.json["code"] == code


@dataclass
class Pair:
    """A caller with tokens and a callee, each with one tab."""

    caller: Tab
    callee: Tab

    async def ring(self, request_id: str = "r-1") -> dict[str, Any]:
        """The ringing call, once the callee's tab heard it."""
        started = await self.caller.ask("call:start", {"calleeId": self.callee.user, "requestId": request_id})
        assert started["ok"], started
        call: dict[str, Any] = started["call"]
        await eventually(
            lambda: [push for push in self.callee.told("call:incoming") if push["call"]["id"] == call["id"]]
        )
        return call

    async def answer(self, call_id: str) -> dict[str, Any]:
        """What the callee's tab got when it accepted."""
        accepted = await self.callee.ask("call:accept", {"callId": call_id})
        assert accepted["ok"], accepted
        return accepted

    async def talk(self) -> dict[str, Any]:
        """An active call; what the callee's tab got when it accepted."""
        return await self.answer((await self.ring())["id"])


Pairs = Callable[..., Awaitable[Pair]]


@contextlib.asynccontextmanager
async def sql(service: Service) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**DatabaseUrl.parse(service.database_url).for_asyncpg())
    try:
        yield connection
    finally:
        await connection.close()


def told_of(tab: Tab, event: str, call_id: str) -> list[dict[str, Any]]:
    """What the tab was told about this call by `event`, as the call stood then."""
    return [push["call"] for push in tab.told(event) if push["call"]["id"] == call_id]


class RawSocket:
    """A WebSocket that says what it is told to, to see what the server makes of it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            await self.socket.send_bytes(frame)
        else:
            await self.socket.send_str(frame)

    async def heard(self, start: str, timeout_s: float = PATIENCE_S) -> str:
        """The next text that starts so; pings are answered and other texts dropped on the way."""
        async with asyncio.timeout(timeout_s):
            while True:
                message = await self.socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise ConnectionError(f"the server hung up while {start!r} was awaited: {message}")
                if message.data == "2":
                    await self.say("3")
                if message.data.startswith(start):
                    text: str = message.data
                    return text

    async def alive(self, timeout_s: float = PATIENCE_S) -> bool:
        """Whether an event is still answered on this socket."""
        try:
            await self.say('4277["balance:get",{}]')
            return '"ok":true' in (await self.heard("4377", timeout_s)).replace(" ", "")
        except (ConnectionError, TimeoutError):
            return False


@contextlib.asynccontextmanager
async def raw_socket(server: Server | Service, user: str | None) -> AsyncIterator[RawSocket]:
    """Open: as a user's tab, or, without one, as an Engine.IO connection that has not said who it is."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket", autoping=True) as socket,
    ):
        raw = RawSocket(socket)
        await raw.heard("0{")
        if user is not None:
            await raw.say("40" + json.dumps({"token": token_of(user)}))
            await raw.heard("40{")
        yield raw


def verified(service: Service) -> None:
    """The ledger's own check finds nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "verify"], env=command_env(service.database_url), cwd=ROOT, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def command_env(database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
