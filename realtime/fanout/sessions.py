"""Engine.IO sessions: one socket of a client, whatever carries it.

`send` is the path every message takes. With a WebSocket that keeps up it is one `write` on the file descriptor, made
here and now: no task, no queue, no copy. `fd` says when that is allowed; it is -1 while anything must go first (bytes
the kernel would not take, packets queued for the next poll, an upgrade under way), and then `enqueue` keeps the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from os import write
from typing import TYPE_CHECKING, Any

from realtime.fanout import packets
from realtime.fanout.frames import frame, split
from realtime.fanout.packets import NOOP_FRAME, PING_FRAME, PROBE_ANSWER_FRAME
from realtime.fanout.timers import NOWHERE

if TYPE_CHECKING:
    from realtime.fanout.engine import EngineServer
    from realtime.fanout.rooms import Member
    from realtime.fanout.websocket import Wire

CLIENT_DISCONNECT = "client disconnect"
SERVER_DISCONNECT = "server disconnect"
PING_TIMEOUT = "ping timeout"
TRANSPORT_CLOSE = "transport close"
TRANSPORT_ERROR = "transport error"
PARSE_ERROR = "parse error"

POLL_PACKETS = 16
"""In the answer to one poll: official Python clients end a connection that gives them more at once."""

Work = Callable[[], Coroutine[Any, Any, None]]


class PollRefused(Exception):
    """This poll is not answered: the session is closed by it, or has gone."""


class Session:
    __slots__ = (
        "_session_data",
        "closed",
        "engine",
        "fd",
        "head",
        "inbox",
        "join_by",
        "members",
        "outbox",
        "outbox_bytes",
        "partial_packet",
        "peer",
        "ping_at",
        "pinged",
        "poller",
        "sid",
        "tick",
        "tokens",
        "tokens_at",
        "upgrading",
        "wire",
    )

    def __init__(self, engine: EngineServer, sid: str, head: bytes, peer: tuple[str, int], now: float) -> None:
        self.engine = engine
        self.sid = sid
        self.head = head
        """The request that opened the session, as it came: `environ` is made from it when somebody asks."""
        self.peer = peer
        self.fd = -1
        self.wire: Wire | None = None
        self.upgrading = False
        self.closed = False
        self.members: tuple[Member, ...] = ()
        """Its Socket.IO sockets, one for a namespace."""
        self.outbox: list[bytes] | None = None
        self.outbox_bytes = 0
        self.poller: asyncio.Future[None] | None = None
        self.inbox: list[Work] | None = None
        """Work to be done in order; None when nothing is going on."""
        self.partial_packet: Any = None
        self.tokens: float = engine.limits.messages_burst
        self.tokens_at = now
        self.tick = NOWHERE
        self.pinged = False
        self.ping_at = now + engine.ping_interval
        self.join_by = now + engine.limits.handshake_timeout_s
        self._session_data: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Session {self.sid} {'websocket' if self.upgraded else 'polling'}{' closed' * self.closed}>"

    def member_in(self, namespace: str) -> Member | None:
        for member in self.members:
            if member.namespace == namespace:
                return member
        return None

    # What python-socketio reads of an Engine.IO socket.

    @property
    def session(self) -> dict[str, Any]:
        if self._session_data is None:
            self._session_data = {}
        return self._session_data

    @session.setter
    def session(self, data: dict[str, Any]) -> None:
        self._session_data = data

    @property
    def connected(self) -> bool:
        return not self.closed

    @property
    def upgraded(self) -> bool:
        return self.wire is not None and not self.upgrading

    @property
    def backlog_bytes(self) -> int:
        """What has been sent to the client and not been taken by it."""
        return self.outbox_bytes + (self.wire.backlog_bytes if self.wire is not None else 0)

    # Out.

    def send(self, frames: bytes) -> None:
        """Send one packet, or put it behind those that wait."""
        fd = self.fd
        if fd < 0:
            self.enqueue(frames)
            return
        try:
            sent = write(fd, frames)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.break_off()
            return
        if sent < len(frames):
            self.fall_behind(frames[sent:])

    def fall_behind(self, rest: bytes) -> None:
        """The kernel has taken no more than the bytes before `rest`: the transport sends it when it can."""
        if (wire := self.wire) is not None:
            self.fd = -1
            wire.backlog(rest)

    def break_off(self) -> None:
        """The connection turned out to be gone; its transport reports that in its own time."""
        self.fd = -1
        if self.wire is not None:
            self.wire.abort()

    def enqueue(self, frames: bytes) -> None:
        if self.closed:
            return
        if self.wire is not None and not self.upgrading:
            self.wire.backlog(frames)
            return
        if self.outbox is None:
            self.outbox = []
        self.outbox.append(frames)
        self.outbox_bytes += len(frames)
        if self.outbox_bytes > self.engine.limits.send_queue_bytes:
            self.drop("slow")
        else:
            self.engine.slow.add(self)
            self._wake_poller()

    def _wake_poller(self) -> None:
        if self.poller is not None and not self.poller.done():
            self.poller.set_result(None)

    # In. Every packet of either transport comes here.

    def on_text(self, text: str) -> None:
        kind = text[:1]
        if kind == packets.MESSAGE:
            self.engine.on_message(self, text[1:])
        elif kind == packets.PONG:
            if self.pinged:
                self.pinged = False
                self.ping_at = self.engine.now() + self.engine.ping_interval
        elif kind == packets.CLOSE:
            self.close(CLIENT_DISCONNECT)
        else:
            self.close(PARSE_ERROR)

    def on_binary(self, data: bytes) -> None:
        self.engine.on_message(self, data)

    def allowed(self, size_bytes: int) -> bool:
        """Count one received message against the socket's rate; a socket past it is dropped."""
        engine = self.engine
        engine.counters.messages_in += 1
        engine.counters.bytes_in += size_bytes
        now = engine.now()
        limits = engine.limits
        tokens = min(self.tokens + (now - self.tokens_at) * limits.messages_per_s, limits.messages_burst)
        tokens -= 1 + size_bytes // limits.message_unit_bytes
        self.tokens_at = now
        self.tokens = tokens
        if tokens < 0:
            self.drop("message_rate")
            return False
        return True

    def do(self, work: Work) -> None:
        """Run `work` after what is already going on for this socket, in a task that ends with the last of it."""
        if self.inbox is None:
            self.inbox = [work]
            self.engine.background(self._work())
        else:
            self.inbox.append(work)

    async def _work(self) -> None:
        assert self.inbox is not None
        done = 0
        while done < len(self.inbox):
            try:
                await self.inbox[done]()
            except Exception:
                self.engine.logger.exception("a packet's handler failed")
            done += 1
        self.inbox = None

    # Polling.

    async def poll(self) -> list[bytes]:
        """The packets for one GET; waits for the first. Raises PollRefused."""
        if self.poller is not None:
            self.close(TRANSPORT_ERROR)
            raise PollRefused("another poll is waiting")
        if self.upgrading:
            return [NOOP_FRAME]
        if not self.outbox:
            self.poller = self.engine.loop.create_future()
            try:
                await self.poller
            finally:
                self.poller = None
        if self.upgrading:
            return [NOOP_FRAME]
        return self.take()

    def take(self) -> list[bytes]:
        if not self.outbox:
            if self.closed:
                raise PollRefused("the session has ended")
            return [NOOP_FRAME]
        # No more is looked at than is taken: a long queue would be walked anew with each poll.
        looked_at = 0
        taken: list[bytes] = []
        while looked_at < len(self.outbox) and len(taken) < POLL_PACKETS:
            taken += [frame(*one) for one in split(self.outbox[looked_at])]
            looked_at += 1
        taken, later = taken[:POLL_PACKETS], taken[POLL_PACKETS:] + self.outbox[looked_at:]
        if later:
            self.outbox = later
            self.outbox_bytes -= sum(map(len, taken))
        else:
            self._emptied()
        return taken

    def _emptied(self) -> list[bytes] | None:
        queued, self.outbox, self.outbox_bytes = self.outbox, None, 0
        self.engine.slow.discard(self)
        return queued

    # WebSocket: from the start, or after a probe.

    def on_probe(self, wire: Wire, text: str) -> None:
        """A packet on a WebSocket that wants to take the session over."""
        if text == "2probe" and self.wire is None and not self.closed:
            self.upgrading = True
            self.wire = wire
            wire.write(PROBE_ANSWER_FRAME)
            self._wake_poller()
        elif text == packets.UPGRADE and self.wire is wire:
            self.upgrading = False
            self.engine.counters.upgrades += 1
            wire.probing = False
            self._wake_poller()
            queued = self._emptied()
            self.fd = wire.fd
            if queued:
                self.send(b"".join(queued))
        else:
            wire.close(1002)

    def on_wire_lost(self, wire: Wire) -> None:
        if self.wire is not wire:
            return
        self.fd = -1
        self.wire = None
        if self.upgrading:
            self.upgrading = False
            if self.outbox:
                self._wake_poller()
        else:
            self.close(TRANSPORT_CLOSE)

    # The end.

    def left(self) -> None:
        """A Socket.IO socket on it is gone. Without any it has the time of a handshake to join again."""
        if not self.members and not self.closed:
            self.join_by = self.engine.now() + self.engine.limits.handshake_timeout_s
            self.engine.wheel.schedule(self, min(self.ping_at, self.join_by))

    def drop(self, why: str) -> None:
        """End it because of something the client did or did not do, and count that."""
        if not self.closed:
            self.engine.counters.drops[why] += 1
            self.close(TRANSPORT_ERROR, code=1008, why=why)

    def close(self, reason: str, *, code: int = 1000, why: str = "") -> None:
        """End the session; the Socket.IO sockets on it get their `disconnect` after what is going on for them."""
        if self.closed:
            return
        self.closed = True
        self.fd = -1
        wire, self.wire = self.wire, None
        if wire is not None:
            if why == "slow":
                wire.abort()
            else:
                wire.close(code, why)
        elif reason == CLIENT_DISCONNECT:
            self.outbox = [NOOP_FRAME]
        elif code == 1001:  # a restart: the clients that poll take an error, not a CLOSE, as a reason to come again
            self.outbox = None
        else:
            self.outbox = [packets.CLOSE_FRAME]
        self._wake_poller()
        self.engine.on_closed(self, reason)

    def on_time(self, now: float) -> float | None:
        engine = self.engine
        if self.closed:
            return None
        join_by: float = self.join_by
        if not self.members and now >= join_by:
            self.drop("handshake_timeout")
            return None
        if now >= self.ping_at:
            if self.pinged:
                engine.counters.drops["ping_timeout"] += 1
                self.close(PING_TIMEOUT)
                return None
            self.pinged = True
            self.ping_at = now + engine.ping_timeout
            self.send(PING_FRAME)
            # A pong moves `ping_at`, and may move it forward: be there in time for either.
            at: float = now + min(engine.ping_interval, engine.ping_timeout)
        else:
            at = self.ping_at
        return at if self.members else min(at, join_by)


class Held:
    """Stands in for a session while a Socket.IO socket on it is being authenticated: keeps what is sent to it."""

    __slots__ = ("frames", "session", "size_bytes")
    fd = -1

    def __init__(self, session: Session) -> None:
        self.session = session
        self.frames: list[bytes] = []
        self.size_bytes = 0

    def enqueue(self, frames: bytes) -> None:
        self.size_bytes += len(frames)
        if self.size_bytes > self.session.engine.limits.send_queue_bytes:
            self.session.drop("slow")
        else:
            self.frames.append(frames)

    send = enqueue

    def lead(self, frames: bytes) -> None:
        """Put it before what is held."""
        self.size_bytes += len(frames)
        self.frames.insert(0, frames)
