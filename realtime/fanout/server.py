"""The Socket.IO server: python-socketio's, with packets, rooms and time of our own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import socketio
from engineio import packet as engine_packet
from socketio.exceptions import ConnectionRefusedError as Refused
from socketio.packet import ACK, BINARY_ACK, BINARY_EVENT, CONNECT, CONNECT_ERROR, DISCONNECT, EVENT, Packet

from realtime.fanout.bus import Bus
from realtime.fanout.engine import EngineServer, new_tag
from realtime.fanout.handshake import environ_of
from realtime.fanout.limits import Limits
from realtime.fanout.manager import FanoutManager
from realtime.fanout.packets import ack_frames, frames_of
from realtime.fanout.rooms import CONNECTED, CONNECTING, Member
from realtime.fanout.sessions import CLIENT_DISCONNECT, PARSE_ERROR, Session, Work
from realtime.fanout.stats import Stats

RESERVED_EVENTS = frozenset({"connect", "connect_error", "disconnect", "disconnecting"})
"""Names the protocol keeps to itself; from a client they are no events."""
MOST_ATTACHMENTS = 1_000
REDIS_START_S = 2.0
UPKEEP_EVERY_S = 1.0


class Environs(MutableMapping[str, dict[str, Any]]):
    """`server.environ`: made anew from the session's request, since a kept one costs kilobytes a socket."""

    def __init__(self, sessions: dict[str, Session]) -> None:
        self._sessions = sessions

    def __getitem__(self, eio_sid: str) -> dict[str, Any]:
        session = self._sessions[eio_sid]
        return environ_of(session.head, session.peer)

    def __setitem__(self, eio_sid: str, environ: Any) -> None:
        """It comes from the session."""

    def __delitem__(self, eio_sid: str) -> None:
        """It goes with the session."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)


class FanoutServer(socketio.AsyncServer):  # type: ignore[misc]
    """A `socketio.AsyncServer`.

    `allowed_origins` are those of the pages that may connect, beside this server's own; "*" allows all. `on_gap` is
    awaited when messages for this process's sockets may have been missed: they need to be told where things stand.
    `instance_id` names the process to operators. Other options are python-socketio's.
    """

    eio: EngineServer
    manager: FanoutManager

    def __init__(
        self,
        *,
        redis_url: str | None = None,
        allowed_origins: Sequence[str] | str = (),
        ping_interval_s: float = 25.0,
        ping_timeout_s: float = 20.0,
        limits: Limits | None = None,
        instance_id: str | None = None,
        on_gap: Callable[[], Awaitable[None]] | None = None,
        channel: str = "socketio",
        **options: Any,
    ) -> None:
        self.limits = limits or Limits()
        self._tag = new_tag()
        self.instance_id = instance_id or self._tag
        self._upkeep: asyncio.Task[None] | None = None
        super().__init__(
            client_manager=FanoutManager(self._tag, channel),
            cors_allowed_origins=allowed_origins if isinstance(allowed_origins, str) else list(allowed_origins),
            ping_interval=ping_interval_s,
            ping_timeout=ping_timeout_s,
            max_http_buffer_size=self.limits.message_bytes,
            limits=self.limits,
            tag=self._tag,
            monitor_clients=False,
            **options,
        )
        self.environ = Environs(self.eio.sockets)
        self.eio.plain_connect = self._handle_eio_connect
        self.eio.on_message = self._on_message
        self.eio.on_expiry = self._on_expiry
        if redis_url:
            manager = self.manager
            manager.bus = Bus(
                redis_url,
                tag=self._tag,
                channels=manager.channels,
                counters=self.eio.counters,
                on_messages=manager.on_messages,
                on_stock=manager.on_stock,
                on_gap=on_gap,
            )

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen to the other processes. Without Redis it goes on alone, and joins them when Redis is there."""
        if self._upkeep is None:
            self._upkeep = self.eio.background(self._keep_up())
            if self.manager.bus is not None:
                await self.manager.bus.start(REDIS_START_S)

    async def drain(self, within_s: float = 5.0) -> None:
        """Accept no sockets any more and send those there are elsewhere; their disconnect handlers have run after."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            self._upkeep = None
        await self.eio.drain(within_s)

    async def stop(self) -> None:
        """Drain, and leave Redis."""
        await self.drain()
        if self.manager.bus is not None:
            await self.manager.bus.stop()
        await self.shutdown()

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_EVERY_S)
            self.eio.enforce_total()

    def deaf(self) -> str | None:
        """Why messages of other processes do not arrive here; None when they do."""
        return self.manager.bus.deaf() if self.manager.bus is not None else None

    def stats(self) -> Stats:
        """Counters since the start, and how things stand now."""
        sessions = self.eio.sockets
        return replace(
            self.eio.counters,
            sockets=len(sessions),
            polling_sockets=sum(not session.upgraded for session in sessions.values()),
            connections=self.eio.connections.total,
            send_queue_bytes=sum(session.backlog_bytes for session in self.eio.slow),
        )

    # -- out -----------------------------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: Any = None,
        to: Any = None,
        room: Any = None,
        skip_sid: Any = None,
        namespace: str | None = None,
        callback: Any = None,
        ignore_queue: bool = False,
    ) -> None:
        """As python-socketio's."""
        await self.manager.emit(
            event,
            data,
            namespace or "/",
            room=to or room,
            skip_sid=skip_sid,
            callback=callback,
            ignore_queue=ignore_queue,
        )

    async def emit_many(self, pushes: Iterable[tuple[Any, str, Any]], *, namespace: str = "/") -> None:
        """Send each `(room, event, data)` to the sockets in its room, on every instance, in this order.

        All of them go to Redis as one command, each process is sent its part of it at once, and a socket with several
        of them gets them in one piece. Sockets of this process are served first, and also when Redis is away.
        """
        if "emit" in self.manager.__dict__:  # instrumented: the admin UI wants to see each of them
            for room, event, data in pushes:
                await self.emit(event, data, room=room, namespace=namespace)
        else:
            await self.manager.emit_many(namespace, pushes)

    async def greet(self, sid: str, messages: Iterable[tuple[str, Any]], *, namespace: str = "/") -> None:
        """Send each `(event, data)` to one socket of this process.

        To a socket that is being connected they are the first it hears, before what its rooms were sent meanwhile.
        """
        self.manager.greet(sid, namespace, messages)

    async def _send_packet(self, eio_sid: str, pkt: Packet) -> None:
        session = self.eio.sockets.get(eio_sid)
        if session is not None:
            session.send(frames_of(pkt.encode()))

    async def _send_eio_packet(self, eio_sid: str, eio_pkt: engine_packet.Packet) -> None:
        await self.eio.send_packet(eio_sid, eio_pkt)

    def _reply(self, session: Session, kind: int, namespace: str, data: Any = None) -> None:
        session.send(frames_of(self.packet_class(kind, data=data, namespace=namespace).encode()))

    # -- in ------------------------------------------------------------------------------------------------------

    def _on_message(self, session: Session, data: str | bytes) -> None:
        """One Engine.IO message. Events start at once; what must be in order waits for what is going on."""
        if session.inbox is not None:
            session.do(partial(self._take_later, session, data))
        elif (work := self._take(session, data)) is not None:
            session.do(work)

    async def _take_later(self, session: Session, data: str | bytes) -> None:
        if not session.closed and (work := self._take(session, data)) is not None:
            await work()

    def _take(self, session: Session, data: str | bytes) -> Work | None:
        try:
            packet = self._assembled(session, data)
            return self._begin(session, packet) if packet is not None else None
        except (ValueError, TypeError, LookupError, RecursionError):
            session.close(PARSE_ERROR)
            return None

    def _assembled(self, session: Session, data: str | bytes) -> Packet | None:
        """The packet that `data` is or completes. Raises ValueError and what decoding raises."""
        packet = session.partial_packet
        if packet is not None:
            if not isinstance(data, bytes):
                raise ValueError("a binary attachment is missing")
            size_bytes = len(data) + sum(map(len, packet.attachments))
            if size_bytes > self.limits.message_bytes:
                self.eio.counters.drops["message_size"] += 1
                raise ValueError("the attachments are too long")
            if not packet.add_attachment(data):
                return None
            session.partial_packet = None
            return packet
        packet = self.packet_class(encoded_packet=data)
        if packet.packet_type in (BINARY_EVENT, BINARY_ACK):
            if session.member_in(packet.namespace or "/") is None or packet.attachment_count > MOST_ATTACHMENTS:
                raise ValueError("unexpected attachments")
            if packet.attachment_count:
                session.partial_packet = packet
                return None
        return packet

    def _begin(self, session: Session, packet: Packet) -> Work | None:
        kind, namespace, data = packet.packet_type, packet.namespace or "/", packet.data
        if kind in (EVENT, BINARY_EVENT):
            if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in RESERVED_EVENTS:
                raise ValueError("not an event")
            member = session.member_in(namespace)
            if member is None or member.state != CONNECTED:
                return None
            work = partial(self._handle_event_internal, self, member.sid, session.sid, data, namespace, packet.id)
            if not self.async_handlers:
                return work
            self.eio.background(work())
            return None
        if kind in (ACK, BINARY_ACK):
            if not isinstance(data, list) or packet.id is None:
                raise ValueError("not an acknowledgement")
            member = session.member_in(namespace)
            if member is not None and packet.id in self.manager.callbacks.get(member.sid, ()) and packet.id:
                self.eio.background(self.manager.trigger_callback(member.sid, packet.id, data))
            return None
        if kind == CONNECT:
            return partial(self._connect, session, namespace, data)
        if kind == DISCONNECT:
            return partial(self._leave, session, namespace, CLIENT_DISCONNECT)
        raise ValueError("unknown packet type")

    async def _handle_event_internal(
        self, server: Any, sid: str, eio_sid: str, data: list[Any], namespace: str, id: int | None
    ) -> None:
        answer = await self._trigger_event(data[0], namespace, sid, *data[1:])
        session = self.eio.sockets.get(eio_sid)
        if answer is self.not_handled or id is None or session is None:
            return
        arguments = [] if answer is None else list(answer) if isinstance(answer, tuple) else [answer]
        if self.packet_class is Packet:
            session.send(ack_frames(namespace, id, arguments))
        else:
            session.send(frames_of(self.packet_class(ACK, namespace=namespace, id=id, data=arguments).encode()))

    # -- connecting and leaving ----------------------------------------------------------------------------------

    async def _connect(self, session: Session, namespace: str, auth: Any) -> None:
        if session.closed:
            return
        served = (
            namespace in self.handlers
            or namespace in self.namespace_handlers
            or self.namespaces == "*"
            or namespace in self.namespaces
        )
        if not served:
            self._reply(session, CONNECT_ERROR, namespace, {"message": "Invalid namespace"})
            return
        member = self.manager.admit(session, namespace)
        if member is None:
            return
        if self.always_connect:
            self._welcome(member)
        refusal = await self._refusal(member, auth)
        if refusal is None:
            if not self.always_connect:
                self._welcome(member)
            return
        self.eio.counters.drops["refused"] += 1
        if self.always_connect:
            self._reply(session, DISCONNECT, namespace, refusal)
        else:
            self._reply(session, CONNECT_ERROR, namespace, refusal)
        self.manager.basic_disconnect(member.sid, namespace)

    def _welcome(self, member: Member) -> None:
        self._reply(member.session, CONNECT, member.namespace, {"sid": member.sid})
        self.manager.welcome(member)
        if member.unwanted:
            self.eio.background(self.disconnect(member.sid, namespace=member.namespace))

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """End a socket, wherever it is; one whose connect handler is at work ends as soon as that has answered."""
        member = self.manager.member(sid, namespace or "/")
        if member is not None and member.state == CONNECTING:
            member.unwanted = True
        else:
            await super().disconnect(sid, namespace=namespace, ignore_queue=ignore_queue)

    async def _refusal(self, member: Member, auth: Any) -> Any:
        """What the application's connect handler has against the socket; it judges `auth` of any shape."""
        environ = self.environ[member.session.sid]
        try:
            try:
                answer = await self._trigger_event("connect", member.namespace, member.sid, environ, auth or None)
            except TypeError:
                if auth:
                    raise
                answer = await self._trigger_event("connect", member.namespace, member.sid, environ)
        except Refused as refused:
            return refused.error_args
        except ConnectionRefusedError:
            return {"message": "Connection refused by server"}
        except Exception:
            self.logger.exception("the connect handler failed")
            return {"message": "Connection refused by server"}
        return Refused().error_args if answer is False else None

    async def _leave(self, session: Session, namespace: str, reason: str) -> None:
        member = session.member_in(namespace)
        if member is None or member.state != CONNECTED:
            return
        self.manager.pre_disconnect(member.sid, namespace)
        try:
            await self._trigger_event("disconnect", namespace, member.sid, reason)
        finally:
            self.manager.basic_disconnect(member.sid, namespace)

    async def _handle_eio_connect(self, eio_sid: str, environ: Any) -> None:
        """The session knows its request; there is nothing to keep."""

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        session = self.eio.sockets.get(eio_sid)
        for member in session.members if session is not None else ():
            try:
                await self._leave(member.session, member.namespace, reason)
            except Exception:
                self.logger.exception("the disconnect handler failed")
            self.manager.basic_disconnect(member.sid, member.namespace)

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        session = self.eio.sockets.get(eio_sid)
        if session is not None:
            self._on_message(session, data)

    # -- authentication that runs out ----------------------------------------------------------------------------

    def set_expiry(self, sid: str, epoch_s: float | None, *, namespace: str = "/") -> None:
        """The socket's authentication ends at `epoch_s`: it is sent `auth:expired` then, and dropped a grace later.

        A new time before that calls it off; None means never.
        """
        member = self.manager.member(sid, namespace)
        if member is None:
            return
        member.expires_at = epoch_s
        member.told_expired = False
        if epoch_s is None:
            self.eio.wheel.cancel(member)
        else:
            self.eio.wheel.schedule(member, self.eio.now() + max(0.0, epoch_s - time.time()))

    def _on_expiry(self, member: Member, now: float) -> float | None:
        if member.expires_at is None or member.session.closed:
            return None
        if member.told_expired:
            member.session.drop("expired")
            return None
        if (early_s := member.expires_at - time.time()) > 0:  # the wall clock was set
            return now + early_s
        member.told_expired = True
        told = {"graceSeconds": self.limits.expiry_grace_s}
        self.eio.background(self.emit("auth:expired", told, to=member.sid, namespace=member.namespace))
        return now + self.limits.expiry_grace_s
