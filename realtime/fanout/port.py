"""One port for HTTP and WebSockets: the first request of a connection decides whose it is.

A WebSocket upgrade for Socket.IO's path is answered here, without the HTTP server ever seeing the connection; anything
else is handed to aiohttp with what has been read of it, and stays with aiohttp.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

from realtime.fanout import handshake
from realtime.fanout.engine import EngineServer, Refusal, peer_of
from realtime.fanout.handshake import END_OF_HEAD, LONGEST_HEAD_BYTES, BadRequest
from realtime.fanout.server import FanoutServer
from realtime.fanout.timers import NOWHERE

SOCKETIO_PATH = "/socket.io/"
BACKLOG = 4_096
SHUTDOWN_TIMEOUT_S = 5.0
_shared = memoryview(bytearray(64 * 1024))


class Opening(asyncio.BufferedProtocol):
    """A new connection until its request's head is there."""

    __slots__ = ("_head", "_http", "address", "engine", "peer", "tick", "transport")

    def __init__(self, engine: EngineServer, http: HttpServer) -> None:
        self.engine = engine
        self._http = http
        self._head = b""
        self.peer = ("", 0)
        self.address: str | None = None
        self.tick = NOWHERE
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = peer_of(transport)
        if not self.engine.connections.opened(self.peer[0]):
            self.engine.counters.drops["connections_per_address"] += 1
            self.transport.abort()
            return
        self.address = self.peer[0]
        self.engine.wheel.schedule(self, self.engine.now() + self.engine.limits.handshake_timeout_s)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared

    def buffer_updated(self, nbytes: int) -> None:
        head = self._head + bytes(_shared[:nbytes])
        if END_OF_HEAD not in head and len(head) < LONGEST_HEAD_BYTES and self._may_be_ours(head):
            self._head = head
            return
        self.engine.wheel.cancel(self)
        if self._is_ours(head):
            self._open(head)
        else:
            self._hand_over(head)

    @staticmethod
    def _may_be_ours(head: bytes) -> bool:
        start = f"GET {SOCKETIO_PATH}".encode()
        return head.startswith(start) or start.startswith(head)

    def _is_ours(self, head: bytes) -> bool:
        return (
            END_OF_HEAD in head
            and head.startswith(f"GET {SOCKETIO_PATH}".encode())
            and b"\r\nupgrade: websocket\r\n" in head[: head.index(END_OF_HEAD) + 2].lower()
        )

    def _open(self, data: bytes) -> None:
        assert self.transport is not None
        end = data.index(END_OF_HEAD) + len(END_OF_HEAD)
        head, rest = data[:end], data[end:]
        address, self.address = self.address, None
        try:
            wire = self.engine.open_websocket(self.transport, head, handshake.parse(head), self.peer)
        except (Refusal, BadRequest) as refusal:
            self.address = address
            self._refuse(refusal)
            return
        if rest:
            wire.receive(rest)

    def _refuse(self, refusal: Refusal | BadRequest) -> None:
        assert self.transport is not None
        status, body = (refusal.status, refusal.body) if isinstance(refusal, Refusal) else (400, b"{}")
        head = b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close"
        self.transport.write(head % (status, len(body)) + END_OF_HEAD + body)
        self.transport.close()

    def _hand_over(self, data: bytes) -> None:
        assert self.transport is not None
        transport, address, self.address = self.transport, self.address, None
        handler = self._http()
        self._http.addresses[handler] = address or ""
        transport.pause_reading()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        transport.resume_reading()
        handler.data_received(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.engine.wheel.cancel(self)
        if self.address is not None:
            self.engine.connections.closed(self.address)
            self.address = None

    def on_time(self, now: float) -> float | None:
        """Nothing was asked in all this time."""
        self.engine.counters.drops["handshake_timeout"] += 1
        if self.transport is not None:
            self.transport.abort()
        return None


class HttpServer(web.Server):
    """aiohttp's, which answers the application's requests, and Socket.IO's before the application sees them."""

    def __init__(self, application: web.Server, engine: EngineServer, **options: Any) -> None:
        super().__init__(self._handle, request_factory=application.request_factory, **options)
        self._application = application.request_handler
        self._engine = engine
        self.addresses: dict[Any, str] = {}

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == SOCKETIO_PATH:
            return await self._engine.handle_request(request)
        return await self._application(request)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if (address := self.addresses.pop(handler, None)) is not None:
            self._engine.connections.closed(address)


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, engine: EngineServer) -> None:
        self._options: dict[str, Any] = {"access_log": None}
        super().__init__(app, shutdown_timeout=SHUTDOWN_TIMEOUT_S, **self._options)
        self._engine = engine

    async def _make_server(self) -> web.Server:
        return HttpServer(await super()._make_server(), self._engine, **self._options)


@asynccontextmanager
async def serve(
    app: web.Application,
    sio: FanoutServer,
    *,
    host: str | None = None,
    port: int | None = None,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
) -> AsyncIterator[asyncio.Server]:
    """Serve the application and the sockets on one port for as long as the block runs.

    At its end the port is closed first, then the sockets are sent elsewhere, then requests under way are waited for.
    """
    loop = asyncio.get_running_loop()
    runner = _Runner(app, sio.eio)
    await runner.setup()
    http = runner.server
    assert isinstance(http, HttpServer)

    def accept() -> Opening:
        return Opening(sio.eio, http)

    try:
        if sock is not None:
            server = await loop.create_server(accept, sock=sock, backlog=BACKLOG)
        else:
            server = await loop.create_server(accept, host, port or 0, reuse_port=reuse_port or None, backlog=BACKLOG)
        try:
            yield server
        finally:
            server.close()
            await sio.drain()
    finally:
        await runner.cleanup()
