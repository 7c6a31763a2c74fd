"""WebSocket frames (RFC 6455): the server's side, without extensions.

What the server sends is built once as bytes and written as it is to every recipient, so encoding is a function from a
payload to bytes. What clients send is read by a `FrameReader`, which lives only while a message is incomplete.
"""

from __future__ import annotations

from collections.abc import Iterator

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN = 0x80

NORMAL_CLOSURE, GOING_AWAY, PROTOCOL_ERROR = 1000, 1001, 1002
INVALID_DATA, POLICY_VIOLATION, TOO_BIG, INTERNAL_ERROR = 1007, 1008, 1009, 1011
MOST_PIECES = 1_000
"""Of one message: pieces without a byte would pass every bound on bytes."""
_CLOSE_CODES_ON_THE_WIRE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

_SHORT = [[bytes((_FIN | opcode, length)) for length in range(126)] for opcode in range(16)]


class FrameError(Exception):
    """The client broke the protocol; `code` is the close code that says how."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(opcode: int, payload: bytes) -> bytes:
    """One unfragmented, unmasked frame."""
    length = len(payload)
    if length < 126:
        return _SHORT[opcode][length] + payload
    if length < 65536:
        return b"%c\x7e%b%b" % (_FIN | opcode, length.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (_FIN | opcode, length.to_bytes(8, "big"), payload)


def close_frame(code: int, why: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + why.encode()[:123])


def split(frames: bytes) -> Iterator[tuple[int, bytes]]:
    """The opcode and payload of each frame in what `frame` built."""
    at, end = 0, len(frames)
    while at < end:
        opcode, length = frames[at] & 0x0F, frames[at + 1]
        at += 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length = int.from_bytes(frames[at : at + width], "big")
            at += width
        yield opcode, frames[at : at + length]
        at += length


def unmask(payload: bytes | bytearray, mask: bytes) -> bytes:
    length = len(payload)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")


class FrameReader:
    """Turns what a client's connection brings into whole messages and control frames."""

    __slots__ = ("_kind", "_limit_bytes", "_parts", "_rest", "_size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()
        self._parts: list[bytes] = []
        self._kind = 0
        self._size_bytes = 0

    @property
    def idle(self) -> bool:
        """Nothing is kept: the next reader may be a new one."""
        return not self._rest and not self._kind

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield `(opcode, payload)` of each message or control frame completed by `data`; `FrameError` ends it all."""
        rest = self._rest
        rest += data
        at = 0
        try:
            while (found := self._frame_at(at)) is not None:
                final, opcode, payload, at = found
                if opcode >= CLOSE:
                    yield opcode, _checked_close(payload) if opcode == CLOSE else payload
                elif (message := self._assemble(final, opcode, payload)) is not None:
                    yield message
        finally:
            del rest[:at]

    def _frame_at(self, at: int) -> tuple[bool, int, bytes, int] | None:
        rest = self._rest
        have = len(rest) - at
        if have < 2:
            return None
        first, second = rest[at], rest[at + 1]
        opcode, length, start = first & 0x0F, second & 0x7F, at + 6
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "reserved bits are set, and no extension was agreed on")
        if not second & 0x80:
            raise FrameError(PROTOCOL_ERROR, "a client's frames are masked")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise FrameError(PROTOCOL_ERROR, "unknown opcode")
        if opcode >= CLOSE and (length > 125 or not first & _FIN):
            raise FrameError(PROTOCOL_ERROR, "a control frame is short and in one piece")
        if length >= 126:
            width = 2 if length == 126 else 8
            if have < 2 + width:
                return None
            length = int.from_bytes(rest[at + 2 : at + 2 + width], "big")
            start += width
        if self._size_bytes + length > self._limit_bytes and opcode < CLOSE:
            raise FrameError(TOO_BIG, "the message is too long")
        end = start + length
        if len(rest) < end:
            return None
        payload = unmask(rest[start:end], bytes(rest[start - 4 : start])) if length else b""
        return bool(first & _FIN), opcode, payload, end

    def _assemble(self, final: bool, opcode: int, payload: bytes) -> tuple[int, bytes] | None:
        if (opcode == CONTINUATION) != bool(self._kind):
            raise FrameError(PROTOCOL_ERROR, "fragments out of order")
        if not self._kind:
            if final:
                return opcode, payload
            self._kind = opcode
        if len(self._parts) == MOST_PIECES:
            raise FrameError(TOO_BIG, "the message is in too many pieces")
        self._parts.append(payload)
        self._size_bytes += len(payload)
        if not final:
            return None
        message = self._kind, b"".join(self._parts)
        self._parts, self._kind, self._size_bytes = [], 0, 0
        return message


def _checked_close(payload: bytes) -> bytes:
    if not payload:
        return payload
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CLOSE_CODES_ON_THE_WIRE or 3000 <= code < 5000):
        raise FrameError(PROTOCOL_ERROR, "no such close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_DATA, "the close reason is not UTF-8") from None
    return payload
