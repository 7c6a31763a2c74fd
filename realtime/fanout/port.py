"""One port for HTTP and WebSockets: the first request of a connection decides whose it is.

A WebSocket upgrade for Socket.IO's path is answered here, without the HTTP server ever seeing the connection; what
belongs to a session of another process behind the port is passed on to it; anything else is handed to aiohttp with what
has been read of it, and stays with aiohttp.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from realtime.fanout import handshake
from realtime.fanout.engine import EngineServer, Refusal, peer_of
from realtime.fanout.handshake import END_OF_HEAD, LONGEST_HEAD_BYTES, BadRequest
from realtime.fanout.server import FanoutServer
from realtime.fanout.siblings import Siblings
from realtime.fanout.timers import NOWHERE

SOCKETIO_PATH = "/socket.io/"
_STARTS = (f"GET {SOCKETIO_PATH}".encode(), f"POST {SOCKETIO_PATH}".encode())
BACKLOG = 4_096
SHUTDOWN_TIMEOUT_S = 5.0
_shared = memoryview(bytearray(64 * 1024))


class Opening(asyncio.BufferedProtocol):
    """A new connection until its request's head is there. `head` is what another process has read of it."""

    __slots__ = ("_decided", "_head", "_http", "address", "engine", "peer", "tick", "transport")

    def __init__(self, engine: EngineServer, http: HttpServer, head: bytes = b"") -> None:
        self.engine = engine
        self._http = http
        self._head = head
        self._decided = False
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
        if self._head:
            self.engine.loop.call_soon(self._received, b"")  # not in here: the transport is not reading yet

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(_shared[:nbytes]))

    def _received(self, data: bytes) -> None:
        if self._decided or self.transport is None or self.transport.is_closing():
            return
        head = self._head + data
        # Whoever sends half a head has as long as who sends nothing: aiohttp would wait for the rest for ever. What is
        # no request at all, say TLS, it refuses at once.
        if END_OF_HEAD not in head and len(head) < LONGEST_HEAD_BYTES and head[:1].isupper():
            self._head = head
            return
        self._decided = True
        self.engine.wheel.cancel(self)
        if self._is_for_sockets(head) and (owner := self.engine.owner_in(head)) is not None:
            self.transport.pause_reading()
            held = os.dup(self.transport.get_extra_info("socket").fileno())
            self.engine.background(self._pass_on(owner, held, head))
        else:
            self._keep(head)

    def _keep(self, head: bytes) -> None:
        if self._is_ours(head):
            self._open(head)
        else:
            self._hand_over(head)

    async def _pass_on(self, owner: str, held: int, head: bytes) -> None:
        """To the process that has the session; if that has gone, the session is refused here as any unknown one."""
        assert self.engine.siblings is not None
        given = await self.engine.siblings.give(owner, held, head)
        if self.transport is None or self.transport.is_closing():
            return
        if given:
            self.transport.abort()  # closes this process's handle on it only
        else:
            self.transport.resume_reading()
            self._keep(head)

    @staticmethod
    def _is_for_sockets(head: bytes) -> bool:
        return END_OF_HEAD in head and head.startswith(_STARTS)

    def _is_ours(self, head: bytes) -> bool:
        return (
            END_OF_HEAD in head
            and head.startswith(_STARTS[0])
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
        """No whole request came in all this time."""
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
        self._engine.connection_lost(handler)
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
    siblings: Path | None = None,
) -> AsyncIterator[asyncio.Server]:
    """Serve the application and the sockets on one port for as long as the block runs.

    With `siblings`, a directory of their own, other processes serve behind the same port (see `siblings.py`). At its
    end the port is closed first, then the sockets are sent elsewhere, then requests under way are waited for.
    """
    loop = asyncio.get_running_loop()
    runner = _Runner(app, sio.eio)
    await runner.setup()
    http = runner.server
    assert isinstance(http, HttpServer)

    def accept() -> Opening:
        return Opening(sio.eio, http)

    def accept_passed(connection: socket.socket, head: bytes) -> None:
        sio.eio.background(_served(connection, lambda: Opening(sio.eio, http, head)))

    try:
        if sock is not None:
            server = await loop.create_server(accept, sock=sock, backlog=BACKLOG)
        else:
            shared = True if siblings is not None else None
            server = await loop.create_server(accept, host, port or 0, reuse_port=shared, backlog=BACKLOG)
        try:
            if siblings is not None:
                sio.eio.siblings = Siblings(siblings, sio.eio.tag)
                sio.eio.siblings.open(accept_passed)
            yield server
        finally:
            server.close()
            if sio.eio.siblings is not None:
                sio.eio.siblings.close()
            await sio.drain()
    finally:
        await runner.cleanup()


async def _served(connection: socket.socket, protocol: Callable[[], Opening]) -> None:
    with contextlib.suppress(OSError):  # the client has gone
        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
