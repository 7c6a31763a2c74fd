"""Fixtures: the fan-out's server alone, in this process, and raw clients that say exactly what they are told to.

`serve_fanout(redis_url=…, limits=…)` starts a `FanoutServer` on a free port and answers a `Running`; `raw` opens plain
HTTP and WebSocket connections to it. Everything is closed after the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from realtime.fanout import FanoutServer, serve
from tests.servers import PATIENCE_S


@dataclass
class Running:
    """A server that serves."""

    sio: FanoutServer
    url: str

    def polling_url(self, sid: str | None = None) -> str:
        return f"{self.url}/socket.io/?EIO=4&transport=polling" + (f"&sid={sid}" if sid is not None else "")

    def websocket_url(self, sid: str | None = None) -> str:
        return f"{self.url}/socket.io/?EIO=4&transport=websocket" + (f"&sid={sid}" if sid is not None else "")

    def drops(self, why: str) -> int:
        return self.sio.stats().drops[why]


ServeFanout = Callable[..., Coroutine[Any, Any, Running]]


@pytest.fixture
async def serve_fanout() -> AsyncIterator[ServeFanout]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            prepare: Callable[[FanoutServer], None] | None = None, *, siblings: Path | None = None, **options: Any
        ) -> Running:
            sio = FanoutServer(**options)
            if prepare is not None:
                prepare(sio)
            await sio.start()
            stack.push_async_callback(sio.stop)
            server = await stack.enter_async_context(serve(web.Application(), sio, host="127.0.0.1", siblings=siblings))
            return Running(sio, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

        yield start


class Socket:
    """A WebSocket, and what it was told, packet by packet."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket

    async def say(self, *packets: str | bytes) -> None:
        for packet in packets:
            if isinstance(packet, bytes):
                await self.raw.send_bytes(packet)
            else:
                await self.raw.send_str(packet)

    async def hear(self) -> str | bytes:
        """The next packet, pings included. Raises ConnectionError at the end."""
        message = await self.raw.receive(timeout=PATIENCE_S)
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            heard: str | bytes = message.data
            return heard
        raise ConnectionError(f"the server has closed the socket: {message}")

    async def hear_other_than_ping(self) -> str | bytes:
        while (heard := await self.hear()) == "2":
            await self.say("3")
        return heard

    async def closed(self) -> int | None:
        """Wait until the server closes it; the close code."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self.hear()
        await self.raw.close()
        return self.raw.close_code

    async def join(self, namespace: str = "/", auth: Any = None) -> str:
        """Connect to a namespace; the socket's id in it."""
        prefix = "40" if namespace == "/" else f"40{namespace},"
        await self.say(prefix + (json.dumps(auth) if auth is not None else ""))
        answer = await self.hear_other_than_ping()
        assert isinstance(answer, str)
        assert answer.startswith(prefix + "{"), answer
        sid: str = json.loads(answer[len(prefix) :])["sid"]
        return sid


class Raw:
    """Opens connections."""

    def __init__(self, session: aiohttp.ClientSession, stack: contextlib.AsyncExitStack) -> None:
        self.http = session
        self._stack = stack

    async def connect(self, url: str, **options: Any) -> Socket:
        """Raises aiohttp.WSServerHandshakeError."""
        return Socket(await self._stack.enter_async_context(self.http.ws_connect(url, **options)))

    async def open(self, running: Running, **options: Any) -> Socket:
        """An Engine.IO session by WebSocket, past its handshake."""
        socket = await self.connect(running.websocket_url(), **options)
        assert str(await socket.hear()).startswith("0{")
        return socket

    async def joined(self, running: Running, namespace: str = "/", auth: Any = None, **options: Any) -> Socket:
        socket = await self.open(running, **options)
        await socket.join(namespace, auth)
        return socket

    async def open_polling(self, running: Running) -> str:
        """An Engine.IO session by long-polling; its id."""
        status, text = await self.get(running.polling_url())
        assert status == 200
        sid: str = json.loads(text[1:])["sid"]
        return sid

    async def get(self, url: str, **options: Any) -> tuple[int, str]:
        async with self.http.get(url, **options) as answer:
            return answer.status, await answer.text()

    async def post(self, url: str, body: str | bytes, **options: Any) -> tuple[int, str]:
        async with self.http.post(url, data=body, **options) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    timeout = aiohttp.ClientTimeout(total=2 * PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, contextlib.AsyncExitStack() as stack:
        yield Raw(session, stack)


async def soon(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)
