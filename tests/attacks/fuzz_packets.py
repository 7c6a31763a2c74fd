"""Coverage-guided fuzzing of what reads a client's bytes: `scripts/fuzz`; its options are libFuzzer's (`-help=1`).

Each reader may refuse in its own ways and in no others; what else it raises is printed with the input that did it.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["realtime.fanout", "realtime.edge.wire", "socketio.packet"]):
    from socketio.packet import Packet

    from realtime.domain.errors import Refused
    from realtime.edge import wire
    from realtime.fanout import frames, handshake, packets

LIMIT_BYTES = 100_000


def read_frames(data: bytes) -> None:
    """In two pieces, which must read as one does."""
    cut = data[0] if data else 0
    whole, pieces = _messages([data]), _messages([data[:cut], data[cut:]])
    assert whole == pieces, f"{whole} in one, {pieces} in two"


def _messages(parts: list[bytes]) -> list[object]:
    reader = frames.FrameReader(LIMIT_BYTES)
    found: list[object] = []
    try:
        for part in parts:
            found += reader.feed(part)
    except frames.FrameError as error:
        return [*found, error.code]
    return found


def read_packet(data: bytes) -> None:
    try:
        packet = Packet(encoded_packet=data.decode())
        packet.add_attachment(b"x")
    except (ValueError, TypeError, LookupError, RecursionError):
        return


def read_head(data: bytes) -> None:
    try:
        head = handshake.parse(data)
        _ = head.query
        handshake.environ_of(data, ("127.0.0.1", 1))
    except (handshake.BadRequest, ValueError):
        return


def read_base64(data: bytes) -> None:
    try:
        packets.from_base64(data.decode())
    except ValueError:
        return


def read_cursor(data: bytes) -> None:
    try:
        wire.decode_cursor(data.decode(), wire.row_id)
    except (Refused, UnicodeDecodeError):
        return


READERS = (read_frames, read_packet, read_head, read_base64, read_cursor)


def one(data: bytes) -> None:
    """The first byte says who reads the rest."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
