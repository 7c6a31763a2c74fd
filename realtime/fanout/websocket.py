"""A WebSocket connection as an asyncio protocol.

All connections of a process read into one buffer: the event loop fills it and the protocol empties it in one go, so an
idle connection owns no buffer at all.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from os import write
from typing import TYPE_CHECKING

from realtime.fanout import frames
from realtime.fanout.frames import FrameError, FrameReader
from realtime.fanout.timers import NOWHERE

if TYPE_CHECKING:
    from realtime.fanout.engine import EngineServer
    from realtime.fanout.sessions import Session

GOODBYE_WITHIN_S = 10.0
"""For what is still being sent when a connection is closed. A client that takes nothing would keep it for ever."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_shared = memoryview(bytearray(256 * 1024))


def upgrade_answer(key: bytes) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


class Wire(asyncio.BufferedProtocol):
    """Carries one session, or, while `probing`, asks to."""

    __slots__ = ("_reader", "_slow", "address", "engine", "fd", "probing", "session", "tick", "transport")

    def __init__(
        self, engine: EngineServer, transport: asyncio.Transport, session: Session, address: str, *, probing: bool
    ) -> None:
        self.engine = engine
        self.address = address
        self.transport = transport
        self.session = session
        self.probing = probing
        self.fd: int = transport.get_extra_info("socket").fileno()
        self.tick = NOWHERE
        self._reader: FrameReader | None = None
        self._slow = False

    # Out.

    def write(self, data: bytes) -> None:
        """Bytes that go out before anything else can have been written."""
        self.transport.write(data)

    @property
    def backlog_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def backlog(self, data: bytes) -> None:
        """Send in the transport's own time; `session.fd` comes back when all has gone."""
        if self.transport.is_closing():
            return
        if not self._slow:
            self._slow = True
            self.engine.slow.add(self.session)
            self.transport.set_write_buffer_limits(high=0)
        self.transport.write(data)
        waiting_bytes = self.transport.get_write_buffer_size()
        if not waiting_bytes:
            self.resume_writing()
        elif waiting_bytes > self.engine.limits.send_queue_bytes:
            self.session.drop("slow")

    def pause_writing(self) -> None:
        """`backlog` has seen to it."""

    def resume_writing(self) -> None:
        if self._slow and not self.transport.is_closing():
            self._slow = False
            self.engine.slow.discard(self.session)
            if self.session.wire is self and not self.session.upgrading:
                self.session.fd = self.fd

    # In.

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared

    def buffer_updated(self, nbytes: int) -> None:
        self.receive(_shared[:nbytes])

    def receive(self, data: bytes | memoryview) -> None:
        reader = self._reader or FrameReader(self.engine.limits.message_bytes)
        try:
            for opcode, payload in reader.feed(data):
                self._on_frame(opcode, payload)
                if self.transport.is_closing():
                    return
        except FrameError as error:
            if error.code == frames.TOO_BIG:
                self.engine.counters.drops["message_size"] += 1
            self._fail(error.code)
        except UnicodeDecodeError:
            self._fail(frames.INVALID_DATA)
        else:
            self._reader = None if reader.idle else reader

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        session = self.session
        if not session.allowed(len(payload)):
            self.abort()
        elif opcode == frames.TEXT:
            text = payload.decode()
            if self.probing:
                session.on_probe(self, text)
            else:
                session.on_text(text)
        elif opcode == frames.BINARY:
            if self.probing:
                self._fail(frames.PROTOCOL_ERROR)
            else:
                session.on_binary(payload)
        elif opcode == frames.PING:
            self._send(frames.frame(frames.PONG, payload))
        elif opcode == frames.CLOSE:
            self.close(int.from_bytes(payload[:2], "big") or frames.NORMAL_CLOSURE)

    def _send(self, data: bytes) -> None:
        if self.probing:
            self.write(data)
        else:
            self.session.send(data)

    # The end.

    def _fail(self, code: int) -> None:
        if self.probing:
            self.close(code)
        else:
            self.session.close("parse error", code=code)

    def close(self, code: int, why: str = "") -> None:
        """Say goodbye behind what is still being sent, and end the connection."""
        transport = self.transport
        if transport.is_closing():
            return
        goodbye = frames.close_frame(code, why)
        if transport.get_write_buffer_size():
            transport.write(goodbye)
            self._end_soon()
        else:
            self._try_write(goodbye)
        self._forget_fd()
        transport.close()

    def _try_write(self, data: bytes) -> None:
        try:
            write(self.fd, data)
        except OSError:
            return  # a client that is not reading, or has gone, misses only the reason

    def abort(self) -> None:
        """End the connection now, without what is still to be sent."""
        self._forget_fd()
        self.transport.abort()

    def _forget_fd(self) -> None:
        # The number will be another connection's: nobody may write to it once the transport may have closed it.
        if self.session.wire is self:
            self.session.fd = -1

    def _end_soon(self) -> None:
        self.engine.wheel.schedule(self, self.engine.now() + GOODBYE_WITHIN_S)

    def eof_received(self) -> bool:
        """The client sends no more: the transport closes, once it has sent what it still has."""
        self._forget_fd()
        self._end_soon()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_fd()
        self.fd = -1
        self.engine.slow.discard(self.session)
        self.engine.wheel.cancel(self)
        self.engine.connections.closed(self.address)
        self.session.on_wire_lost(self)

    def on_time(self, now: float) -> float | None:
        """The time for an upgrade, or for the goodbye, is over."""
        if self.transport.is_closing():
            self.transport.abort()
        elif self.probing:
            self.engine.counters.drops["upgrade_timeout"] += 1
            self.close(frames.POLICY_VIOLATION)
        return None
