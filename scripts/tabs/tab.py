"""One tab: a WebSocket that speaks Engine.IO 4 and Socket.IO 5, with as little work for each message as can be.

Frames are sent with a mask of zeros, which the protocol allows and which costs the server what any mask costs, and the
client nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

CONNECTING, OPEN, CLOSED = range(3)
_PING, _PONG = b"2", b"\x81\x81\x00\x00\x00\x003"
_EVENT, _ACK, _CONNECTED, _REFUSED, _DISCONNECTED = b"42", b"43", b"40", b"44", b"41"


class Address:
    """Where a server is, and what a tab sends to it first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not the URL of a server: {url}")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        path = parts.path.rstrip("/") + "/socket.io/"
        key = base64.b64encode(os.urandom(16)).decode()
        self.request = (
            f"GET {path}?EIO=4&transport=websocket HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()


class Listener(Protocol):
    """What a crowd wants to know of its tabs."""

    def on_open(self, tab: Tab) -> None: ...

    def on_closed(self, tab: Tab, why: str) -> None: ...

    def on_event(self, tab: Tab, payload: bytes) -> None: ...


def masked(payload: bytes) -> bytes:
    """A client's text frame."""
    length = len(payload)
    if length < 126:
        head = b"\x81%c" % (0x80 | length)
    elif length < 65536:
        head = b"\x81\xfe" + length.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + length.to_bytes(8, "big")
    return head + b"\x00\x00\x00\x00" + payload


class Tab(asyncio.Protocol):
    __slots__ = ("_acks", "_answered", "_auth", "_next_id", "_rest", "address", "kept", "listener", "missing",
                 "opened_at", "sid", "snapshots", "state", "transport", "user", "versions")  # fmt: skip

    def __init__(self, listener: Listener, address: Address, user: Any, auth: dict[str, Any], opened_at: float) -> None:
        self.listener = listener
        self.address = address
        self.user = user
        self.opened_at = opened_at
        """When the connection was asked for."""
        self.state = CONNECTING
        self.sid = ""
        self.transport: Any = None
        self.kept = 0
        """How many answers somebody waits for: until then it is not closed."""
        self.versions: dict[bytes, int] = {}
        """The newest version seen, by event."""
        self.snapshots: dict[bytes, int] = {}
        """That of the newest snapshot."""
        self.missing: dict[bytes, set[int]] = {}
        """Those that a younger one has overtaken, and that have not come since."""
        self._auth: bytes = masked(b"40" + orjson.dumps(auth))
        self._answered = False
        self._rest = b""
        self._acks: dict[int, asyncio.Future[Any]] | None = None
        self._next_id = 0

    # -- out -----------------------------------------------------------------------------------------------------

    def ask(self, event: str, payload: Any) -> asyncio.Future[Any]:
        """Send an event; the future gets the first argument of its acknowledgement, or a ConnectionError."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.state != OPEN:
            answer.set_exception(ConnectionError("the tab is closed"))
            return answer
        if self._acks is None:
            self._acks = {}
        self._next_id += 1
        self._acks[self._next_id] = answer
        self.transport.write(masked(b"42%d" % self._next_id + orjson.dumps([event, payload])))
        return answer

    def close(self) -> None:
        if self.state != CLOSED and self.transport is not None:
            self._be_closed("the tab is closed")
            self.transport.write(masked(b"41"))
            self.transport.close()

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._be_closed("the tab is closed")
        if self.transport is not None:
            self.transport.abort()

    def _be_closed(self, why: str) -> None:
        """No answer comes now: whoever waits for one is told, rather than left to wait for its time to be over."""
        self.state = CLOSED
        unanswered, self._acks = self._acks or {}, None
        for answer in unanswered.values():
            if not answer.done():
                answer.set_exception(ConnectionError(why))

    # -- in ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self.address.request)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self._answered:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            if b" 101 " not in head[:16]:
                self._lose(head[:40].decode("latin-1").split("\r\n")[0])
                return
            self._answered = True
        at, end_at = 0, len(data)
        while end_at - at >= 2:
            length, start = data[at + 1], at + 2
            if length >= 126:
                width = 2 if length == 126 else 8
                if end_at - start < width:
                    break
                length = int.from_bytes(data[start : start + width], "big")
                start += width
            stop = start + length
            if end_at < stop:
                break
            if data[at] == 0x81:
                self._on_text(data[start:stop])
            elif data[at] & 0x0F == 8:
                self._lose("the server closed the WebSocket")
                return
            at = stop
        if at < end_at:
            self._rest = data[at:]

    def _on_text(self, payload: bytes) -> None:
        kind = payload[:2]
        if kind == _EVENT:
            self.listener.on_event(self, payload)
        elif payload == _PING:
            self.transport.write(_PONG)
        elif kind == _ACK:
            number, _, answer = payload[2:].partition(b"[")
            asked = self._acks.pop(int(number), None) if self._acks is not None else None
            if asked is not None and not asked.done():
                asked.set_result((orjson.loads(b"[" + answer) or [None])[0])
        elif kind == _CONNECTED:
            self.sid = orjson.loads(payload[2:])["sid"]
            self.state = OPEN
            self._auth = b""
            self.listener.on_open(self)
        elif payload[:1] == b"0":
            self.transport.write(self._auth)
        elif kind == _REFUSED:
            self._lose("refused: " + str(orjson.loads(payload[2:]).get("message")))
        elif kind == _DISCONNECTED or payload == b"1":
            self._lose("the server ended the session")

    def _lose(self, why: str) -> None:
        if self.state != CLOSED:
            self._be_closed(why)
            self.transport.abort()
            self.listener.on_closed(self, why)

    def connection_lost(self, error: Exception | None) -> None:
        if self.state != CLOSED:
            self._be_closed(why := "the connection was lost")
            self.listener.on_closed(self, why)
