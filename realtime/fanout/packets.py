"""Packets as bytes: a packet is encoded once, as its WebSocket frames, and that is what is kept, queued and sent.

An Engine.IO text packet is one text frame; a Socket.IO packet with binary attachments is a text frame with placeholders
and a binary frame each. HTTP long-polling, the rare case, respells the same frames.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import orjson

from realtime.fanout.frames import BINARY, TEXT, frame, split

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
SEPARATOR = "\x1e"

PING_FRAME = frame(TEXT, b"2")
PROBE_ANSWER_FRAME = frame(TEXT, b"3probe")
NOOP_FRAME = frame(TEXT, b"6")
CLOSE_FRAME = frame(TEXT, b"1")


def _dump(value: Any, attachments: list[bytes]) -> bytes:
    """JSON, with each binary value replaced by a placeholder and put into `attachments`."""

    def other(found: Any) -> Any:
        if isinstance(found, (bytes, bytearray, memoryview)):
            attachments.append(bytes(found))
            return {"_placeholder": True, "num": len(attachments) - 1}
        if isinstance(found, tuple):  # a named one
            return list(found)
        raise TypeError(f"{type(found).__name__} is not JSON serializable")

    try:
        return orjson.dumps(value, default=other)
    except orjson.JSONEncodeError:
        attachments.clear()  # integers over 64 bits, keys that are numbers: what the standard library can still spell
        return json.dumps(value, default=other, separators=(",", ":")).encode()


def event_frames(namespace: str, event: str, data: Any, ack_id: int | None = None) -> bytes:
    """An EVENT packet; a tuple as `data` is spread over several arguments, None is no argument."""
    if isinstance(data, tuple):
        arguments = [event, *data]
    elif data is None:
        arguments = [event]
    else:
        arguments = [event, data]
    return _packet_frames("2", "5", namespace, ack_id, arguments)


def ack_frames(namespace: str, ack_id: int, arguments: list[Any]) -> bytes:
    return _packet_frames("3", "6", namespace, ack_id, arguments)


def _packet_frames(plain: str, binary: str, namespace: str, ack_id: int | None, arguments: list[Any]) -> bytes:
    attachments: list[bytes] = []
    body = _dump(arguments, attachments)
    if not attachments and namespace == "/" and ack_id is None:
        return frame(TEXT, b"4%b%b" % (plain.encode(), body))
    head = "4" + (f"{binary}{len(attachments)}-" if attachments else plain)
    if namespace != "/":
        head += namespace + ","
    if ack_id is not None:
        head += str(ack_id)
    text = frame(TEXT, head.encode() + body)
    return text + b"".join(frame(BINARY, part) for part in attachments) if attachments else text


def frames_of(encoded: str | bytes | list[str | bytes]) -> bytes:
    """The Engine.IO message (or messages) that a Socket.IO packet class made of a packet."""
    if isinstance(encoded, str):
        return frame(TEXT, b"4" + encoded.encode())
    if isinstance(encoded, list):
        return b"".join(map(frames_of, encoded))
    return frame(BINARY, bytes(encoded))


def from_base64(text: str) -> bytes:
    """Raises ValueError."""
    return base64.b64decode(text, validate=True)


def polling_payload(queued: Iterable[bytes]) -> str:
    """The same packets as the body of a long-polling answer."""
    return SEPARATOR.join(
        payload.decode() if opcode == TEXT else "b" + base64.b64encode(payload).decode()
        for frames in queued
        for opcode, payload in split(frames)
    )
