"""What processes send each other through Redis.

A message is its sender's tag, a kind, a body and the sender's number for it:

- `FRAMES`: for the room whose channel it came on. A byte with the number of packets, then their frames as they go out.
- `ROOMS`: for several rooms, or not for all in them. A JSON head with its length before it, then the frames.
- `CONTROL`: JSON with a `method`, as python-socketio's own: an emit whose acknowledgement is waited for, and the like.
- `GAP`: messages of this sender were lost. `PROBE`: a process's message to itself, to hear whether it hears.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from socketio.packet import Packet

FRAMES, ROOMS, CONTROL, GAP, PROBE = b"F", b"R", b"C", b"G", b"P"
TAG_LENGTH = 8
KIND = slice(TAG_LENGTH, TAG_LENGTH + 1)
BODY = slice(TAG_LENGTH + 1, -8)
NUMBER = slice(-8, None)
"""Last, since Redis's Lua hashes only some characters of a long string, and the last one always: messages that are
alike but for their number would be found one behind the other in its table of strings."""


LONGEST_RUN = 255
"""Packets for one room that cross Redis together: their number is a byte."""


class Message(NamedTuple):
    channel: bytes
    sender: bytes
    kind: bytes
    body: bytes


class Aim(NamedTuple):
    """For whom the frames in the body of a `ROOMS` message are."""

    namespace: str
    rooms: list[Any]
    skip: list[str]
    packets: int


def payload_of(sender: bytes, kind: bytes, body: bytes, number: int) -> bytes:
    return b"%b%b%b%b" % (sender, kind, body, number.to_bytes(8, "big"))


def frames_body(frames: bytes, packets: int) -> bytes:
    return bytes((packets,)) + frames


def from_frames_body(body: bytes) -> tuple[bytes, int]:
    return body[1:], body[0]


def rooms_body(aim: Aim, frames: bytes) -> bytes:
    head = json.dumps(aim._asdict()).encode()
    return len(head).to_bytes(4, "big") + head + frames


def from_rooms_body(body: bytes) -> tuple[Aim, bytes]:
    length = int.from_bytes(body[:4], "big")
    head = json.loads(body[4 : 4 + length])  # of another version, perhaps, which may say more
    return Aim(*(head[field] for field in Aim._fields)), body[4 + length :]


def arguments_as_json(data: Any) -> dict[str, Any]:
    """Arguments as python-socketio puts them on Redis: binary ones apart, in base 64."""
    arguments = list(data) if isinstance(data, tuple) else [data]
    if not Packet.data_is_binary(arguments):
        return {"data": arguments, "binary": False}
    plain, attachments = Packet.deconstruct_binary(arguments)
    return {"data": [plain, *(base64.b64encode(part).decode() for part in attachments)], "binary": True}


def arguments_from_json(message: dict[str, Any]) -> Any:
    data = message["data"]
    if message.get("binary"):
        data = Packet.reconstruct_binary(data[0], [base64.b64decode(part) for part in data[1:]])
    if not isinstance(data, list):
        return data
    return data[0] if len(data) == 1 else tuple(data)
