"""Engine.IO: opens sessions, answers long-polling requests, watches over time and bounds."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import string
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import engineio
from aiohttp import web
from engineio import packet as stock_packet

from realtime.fanout import handshake, packets
from realtime.fanout.frames import BINARY, TEXT, frame
from realtime.fanout.handshake import Head
from realtime.fanout.limits import Connections, Limits
from realtime.fanout.packets import polling_payload
from realtime.fanout.sessions import (
    PARSE_ERROR,
    SERVER_DISCONNECT,
    TRANSPORT_CLOSE,
    TRANSPORT_ERROR,
    PollRefused,
    Session,
)
from realtime.fanout.stats import Stats
from realtime.fanout.timers import TimerWheel
from realtime.fanout.websocket import Wire, upgrade_answer

if TYPE_CHECKING:
    from realtime.fanout.rooms import Member
    from realtime.fanout.siblings import Siblings

UPGRADE_TIMEOUT_S = 10.0
COMPRESS_FROM_BYTES = 1_024
_ABOUT_THE_BODY = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"expect"})
TAG_ALPHABET = string.ascii_letters + string.digits

# Engine.IO's own numbers for why a request is refused.
UNKNOWN_TRANSPORT, UNKNOWN_SID, BAD_METHOD, BAD_REQUEST, FORBIDDEN, BAD_VERSION = range(6)
_WHY = (
    "Transport unknown",
    "Session ID unknown",
    "Bad handshake method",
    "Bad request",
    "Forbidden",
    "Unsupported protocol version",
)


class Refusal(Exception):
    """The request opens nothing; `code` is Engine.IO's."""

    def __init__(self, code: int, status: int = 400) -> None:
        super().__init__(_WHY[code])
        self.code = code
        self.status = status

    @property
    def body(self) -> bytes:
        return json.dumps({"code": self.code, "message": _WHY[self.code]}).encode()


def new_tag() -> str:
    """A process's name in the ids of its sockets and on Redis."""
    return "".join(secrets.choice(TAG_ALPHABET) for _ in range(8))


class EngineServer(engineio.AsyncServer):  # type: ignore[misc]
    """Keeps python-engineio's interface and replaces what carries the packets."""

    def __init__(self, *, limits: Limits, tag: str, **options: Any) -> None:
        super().__init__(async_mode="aiohttp", **options)
        self.limits = limits
        self.tag = tag
        self.counters = Stats()
        self.connections = Connections(limits)
        self.sockets: dict[str, Session] = {}
        self.slow: set[Session] = set()
        self.draining = False
        self.siblings: Siblings | None = None
        """The other processes behind the port, if there are any."""
        self.on_message: Callable[[Session, str | bytes], None] = lambda _session, _data: None
        self.on_expiry: Callable[[Member, float], float | None] = lambda _member, _now: None
        self.plain_connect: Any = None
        """A `connect` handler that has nothing to do for a session that opens."""
        self.wheel = TimerWheel(max(0.01, min(0.25, self.ping_interval / 4, self.ping_timeout / 4)))
        self._polled: dict[Any, Session] = {}
        """The sessions whose poll waits, by aiohttp's connection."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def now(self) -> float:
        return self.loop.time()

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it; a failure is logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("a handler failed", exc_info=error)

    def generate_id(self) -> str:
        """The process's tag and 120 random bits; the tag leads other processes here."""
        return f"{self.tag}.{secrets.token_urlsafe(15)}"

    # -- opening -------------------------------------------------------------------------------------------------

    def check_origin(self, origin: str | None, host: str) -> None:
        """Browsers send an Origin; nothing else decides who may connect. Raises Refusal."""
        allowed = self.cors_allowed_origins
        if origin is None or allowed == "*" or "*" in allowed or origin in allowed:
            return
        if not handshake.same_origin(origin, host):
            self.counters.drops["origin"] += 1
            raise Refusal(FORBIDDEN, 403)

    def _check_query(self, query: dict[str, str], method: str) -> None:
        if query.get("transport") not in self.transports:
            raise Refusal(UNKNOWN_TRANSPORT)
        if "j" in query:  # JSONP, which answers with a script: no browser that speaks version 4 needs it
            raise Refusal(BAD_REQUEST)
        if "sid" in query:
            return
        if method != "GET":
            raise Refusal(BAD_METHOD)
        if query.get("EIO") != "4":
            raise Refusal(BAD_VERSION)
        if self.draining:
            raise Refusal(BAD_REQUEST, 503)

    def session_of(self, sid: str) -> Session:
        """Raises Refusal."""
        session = self.sockets.get(sid)
        if session is None or session.closed:
            raise Refusal(UNKNOWN_SID)
        return session

    def _open(self, head: bytes, peer: tuple[str, int]) -> Session:
        now = self.now()
        session = Session(self, self.generate_id(), head, peer, now)
        self.sockets[session.sid] = session
        self.counters.connects += 1
        self.wheel.schedule(session, min(session.ping_at, session.join_by))
        return session

    def _open_packet(self, session: Session, upgrades: list[str]) -> bytes:
        opening = (
            f'0{{"sid":"{session.sid}","upgrades":{json.dumps(upgrades)},'
            f'"pingInterval":{round((self.ping_interval + self.ping_interval_grace_period) * 1000)},'
            f'"pingTimeout":{round(self.ping_timeout * 1000)},"maxPayload":{self.limits.message_bytes}}}'
        )
        return frame(TEXT, opening.encode())

    async def _announce(self, session: Session) -> None:
        """Tell Socket.IO of the session, which may refuse it."""
        answer = await self._trigger_event("connect", session.sid, None, run_async=False)
        if answer is not None and answer is not True:
            session.close(SERVER_DISCONNECT)

    # -- WebSocket -----------------------------------------------------------------------------------------------

    def open_websocket(self, transport: asyncio.Transport, head: bytes, request: Head, peer: tuple[str, int]) -> Wire:
        """Make `transport` a socket: of a new session, or of the one it names, if that lets it. Raises Refusal."""
        headers = request.headers
        self.check_origin(headers.get("origin"), headers.get("host", ""))
        try:
            query = request.query
        except ValueError:  # more parameters than anybody has
            raise Refusal(BAD_REQUEST) from None
        self._check_query(query, request.method)
        key = headers.get("sec-websocket-key", "")
        if query["transport"] != "websocket" or not request.wants_websocket or len(key) != 24:
            raise Refusal(BAD_REQUEST)
        if headers.get("sec-websocket-version") != "13":
            raise Refusal(BAD_REQUEST, 426)
        answer = upgrade_answer(key.encode("latin-1"))
        if (sid := query.get("sid")) is not None:
            return self._probe(transport, self.session_of(sid), answer, peer)
        session = self._open(head, peer)
        wire = Wire(self, transport, session, peer[0], probing=False)
        session.wire = wire
        transport.set_protocol(wire)
        session.fd = wire.fd
        session.send(answer + self._open_packet(session, []))
        if self.handlers.get("connect") != self.plain_connect:
            session.do(partial(self._announce, session))
        return wire

    def _probe(self, transport: asyncio.Transport, session: Session, answer: bytes, peer: tuple[str, int]) -> Wire:
        if session.wire is not None or not self.allow_upgrades:
            raise Refusal(BAD_REQUEST)
        wire = Wire(self, transport, session, peer[0], probing=True)
        transport.set_protocol(wire)
        wire.write(answer)
        self.wheel.schedule(wire, self.now() + UPGRADE_TIMEOUT_S)
        return wire

    # -- polling -------------------------------------------------------------------------------------------------

    async def handle_request(self, request: web.BaseRequest) -> web.StreamResponse:
        """An HTTP request for Engine.IO's path."""
        try:
            self.check_origin(request.headers.get("Origin"), request.headers.get("Host", ""))
        except Refusal as refusal:  # nor may such a page read why
            return _refused(refusal)
        try:
            if request.method == "OPTIONS":
                response = web.Response(status=204)
            else:
                response = await self._answer(request)
        except Refusal as refusal:
            response = _refused(refusal)
        if not response.prepared:
            response.headers.update(self._cross_origin_headers(request))
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        query = dict(reversed(list(request.query.items())))
        self._check_query(query, request.method)
        owner = self.siblings.owner_of(query.get("sid", "")) if self.siblings is not None else None
        if owner is not None and await self._pass_on(request, owner):
            return web.Response()
        if query["transport"] == "websocket":
            return self._take_over(request)
        if "sid" not in query:
            return await self._answer_opening(request)
        session = self.session_of(query["sid"])
        if session.upgraded:
            raise Refusal(BAD_REQUEST)
        if request.method == "GET":
            return await self._answer_poll(request, session)
        if request.method == "POST":
            return await self._answer_post(request, session)
        raise Refusal(BAD_REQUEST)

    async def _answer_opening(self, request: web.BaseRequest) -> web.Response:
        session = self._open(_head_of(request), _peer_of(request))
        upgrades = ["websocket"] if self.allow_upgrades and "websocket" in self.transports else []
        opening = self._open_packet(session, upgrades)
        await self._announce(session)
        if session.closed:
            raise Refusal(FORBIDDEN, 401)
        response = self._text(request, polling_payload([opening]))
        if self.cookie:
            attributes = self.cookie if isinstance(self.cookie, dict) else {"name": self.cookie, "path": "/"}
            response.headers["Set-Cookie"] = self._generate_sid_cookie(session.sid, {"SameSite": "Lax"} | attributes)
        return response

    async def _answer_poll(self, request: web.BaseRequest, session: Session) -> web.Response:
        self._polled[request.protocol] = session
        try:
            queued = await session.poll()
        except PollRefused:
            raise Refusal(BAD_REQUEST, 503 if self.draining else 400) from None
        finally:
            del self._polled[request.protocol]
        if session.wire is None and (request.transport is None or request.transport.is_closing()):
            session.close(TRANSPORT_ERROR)  # what was taken for it will not arrive
        return self._text(request, polling_payload(queued))

    def connection_lost(self, connection: Any) -> None:
        """A connection of aiohttp's is over. Who polled on it has gone, and comes again as somebody new."""
        session = self._polled.get(connection)
        if session is not None and session.wire is None:
            session.close(TRANSPORT_CLOSE)

    async def _answer_post(self, request: web.BaseRequest, session: Session) -> web.Response:
        body = await self._body(request)
        if body is None:
            self.counters.drops["message_size"] += 1
            session.close(TRANSPORT_ERROR)
            raise Refusal(BAD_REQUEST, 413)
        try:
            for encoded in body.decode().split(packets.SEPARATOR):
                if session.closed or session.upgraded or not session.allowed(len(encoded)):
                    break
                if encoded[:1] == "b":
                    session.on_binary(packets.from_base64(encoded[1:]))
                else:
                    session.on_text(encoded)
                    if session.closed and encoded[:1] != packets.CLOSE:
                        raise Refusal(BAD_REQUEST)
        except ValueError:
            session.close(PARSE_ERROR)
            raise Refusal(BAD_REQUEST) from None
        return web.Response(text="ok", content_type="text/html")

    async def _body(self, request: web.BaseRequest) -> bytes | None:
        """None when it is longer than a client may send."""
        limit_bytes = self.limits.message_bytes
        if (request.content_length or 0) > limit_bytes:
            return None
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limit_bytes:
                return None
        return bytes(body)

    def _text(self, request: web.BaseRequest, text: str) -> web.Response:
        response = web.Response(text=text, content_type="text/plain")
        response.headers["Cache-Control"] = "no-store"
        if self.http_compression and len(text) >= COMPRESS_FROM_BYTES:
            response.enable_compression()
        return response

    def _cross_origin_headers(self, request: web.BaseRequest) -> dict[str, str]:
        origin = request.headers.get("Origin")
        if origin is None:
            return {}
        headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if self.cors_credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "OPTIONS, GET, POST"
            if asked := request.headers.get("Access-Control-Request-Headers"):
                headers["Access-Control-Allow-Headers"] = asked
        return headers

    def _take_over(self, request: web.BaseRequest) -> web.Response:
        """A WebSocket on a connection that carried other requests before: take it from aiohttp."""
        transport = request.transport
        if request.method != "GET" or transport is None:
            raise Refusal(BAD_REQUEST)
        head = _head_of(request)
        peer = _peer_of(request)
        self.connections.taken_over(peer[0])
        transport.pause_reading()
        try:
            self.open_websocket(transport, head, handshake.parse(head), peer)
        except BaseException:
            self.connections.closed(peer[0])
            raise
        finally:
            transport.resume_reading()
        self._let_go(request)
        return web.Response()

    @staticmethod
    def _let_go(request: web.BaseRequest) -> None:
        """aiohttp takes its connection for lost, and lets go of the real one."""
        request.protocol.transport = None
        request.protocol.connection_lost(None)

    def owner_in(self, head: bytes) -> str | None:
        """The other process behind the port that has the session the request is for."""
        return self.siblings.owner_in(head) if self.siblings is not None else None

    async def _pass_on(self, request: web.BaseRequest, owner: str) -> bool:
        """Give the connection, with this request, to the process that has the session; whether it could be."""
        assert self.siblings is not None
        body = await self._body(request)
        too_long_bytes = max(request.content_length or 0, self.limits.message_bytes + 1)
        transport = request.transport
        if transport is None or transport.is_closing():
            return False
        transport.pause_reading()
        held = os.dup(transport.get_extra_info("socket").fileno())
        head = _again(request, len(body) if body is not None else too_long_bytes)
        if not await self.siblings.give(owner, held, head + (body or b"")):
            transport.resume_reading()
            return False
        transport.set_protocol(asyncio.Protocol())
        self._let_go(request)
        transport.abort()  # closes this process's handle on it only
        return True

    # -- what python-socketio calls ------------------------------------------------------------------------------

    def _get_socket(self, sid: str) -> Session:
        try:
            return self.sockets[sid]
        except KeyError:
            raise KeyError("Session not found") from None

    async def send_packet(self, sid: str, pkt: stock_packet.Packet) -> None:
        session = self.sockets.get(sid)
        if session is not None:
            encoded = pkt.encode()
            session.send(frame(TEXT, encoded.encode()) if isinstance(encoded, str) else frame(BINARY, encoded))

    async def disconnect(self, sid: str | None = None) -> None:
        for session in list(self.sockets.values()) if sid is None else [self.sockets.get(sid)]:
            if session is not None:
                session.close(SERVER_DISCONNECT)

    async def shutdown(self) -> None:
        """End the timers. Sessions are ended by `drain`."""
        self.wheel.stop()

    # -- closing -------------------------------------------------------------------------------------------------

    def on_closed(self, session: Session, reason: str) -> None:
        self.wheel.cancel(session)
        self.slow.discard(session)
        self.counters.disconnects[reason] += 1
        session.do(partial(self._ended, session, reason))

    async def _ended(self, session: Session, reason: str) -> None:
        try:
            await self._trigger_event("disconnect", session.sid, reason, run_async=False)
        finally:
            self.sockets.pop(session.sid, None)

    async def drain(self, within_s: float) -> None:
        """Open nothing any more; end every session in a way its client comes back from; wait for their handlers."""
        self.draining = True
        for session in list(self.sockets.values()):
            session.close(SERVER_DISCONNECT, code=1001, why="the server is stopping")
        deadline = self.now() + within_s
        this = asyncio.current_task()
        while (tasks := {task for task in self._tasks if task is not this}) and (left_s := deadline - self.now()) > 0:
            await asyncio.wait(tasks, timeout=left_s)

    def enforce_total(self) -> None:
        """Drop the slowest sockets while all together hold more than the process may."""
        queues = sorted(((session.backlog_bytes, session.sid) for session in self.slow), reverse=True)
        total_bytes = sum(size_bytes for size_bytes, _ in queues)
        for size_bytes, sid in queues:
            if total_bytes <= self.limits.total_queue_bytes:
                return
            total_bytes -= size_bytes
            self.sockets[sid].drop("slow")


def _again(request: web.BaseRequest, body_bytes: int) -> bytes:
    """The head of the request as it came, for a body that has been read and is in one piece now."""
    headers = [(name, value) for name, value in request.raw_headers if name.lower() not in _ABOUT_THE_BODY]
    if request.method == "POST":
        headers.append((b"Content-Length", b"%d" % body_bytes))
    return handshake.head_of(request.method, request.path_qs, headers)


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(status=refusal.status, body=refusal.body, content_type="application/json")


def _head_of(request: web.BaseRequest) -> bytes:
    """The request's head, which its session keeps. Raises Refusal for one that is too long to be kept."""
    head = handshake.head_of(request.method, request.path_qs, request.raw_headers)
    if len(head) > handshake.LONGEST_HEAD_BYTES:
        raise Refusal(BAD_REQUEST, 431)
    return head


def _peer_of(request: web.BaseRequest) -> tuple[str, int]:
    return peer_of(request.transport)


def peer_of(transport: asyncio.BaseTransport | None) -> tuple[str, int]:
    """Address and port; nothing for a Unix socket."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return (peer[0], peer[1]) if isinstance(peer, tuple) else ("", 0)
