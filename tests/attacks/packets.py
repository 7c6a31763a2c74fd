"""Generators of what a hostile client may send: packets, frames and request heads, from nearly right to noise."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

from realtime.edge.sockets import EVENTS

TEXT = st.text(max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
NAMES = st.sampled_from([*EVENTS, "connect", "disconnect", "connect_error", "__proto__", "", "*"]) | TEXT
PLACEHOLDER = st.builds(lambda n: {"_placeholder": True, "num": n}, st.integers(-2, 5) | st.none())
NAMESPACES = st.sampled_from(["", "/,", "/admin,", "/\x00,", "//,", "/" + "x" * 200 + ","])
NUMBERS = st.integers(0, 99).map(str) | st.sampled_from(["", "9" * 100, "-1", "0x1", "١"])
NESTED = st.integers(1, 30_000).map(lambda depth: "[" * depth)


def _packed(kind: str, namespace: str, number: str, data: Any) -> str:
    return f"4{kind}{namespace}{number}{json.dumps(data)}"


EVENT = st.builds(
    lambda kind, namespace, number, name, rest: _packed(kind, namespace, number, [name, *rest]),
    st.sampled_from("2356"), NAMESPACES, NUMBERS, NAMES, st.lists(JSON | PLACEHOLDER, max_size=3),
)  # fmt: skip
BINARY_EVENT = st.builds(
    lambda kind, count, name, rest: f"4{kind}{count}-{json.dumps([name, *rest])}",
    st.sampled_from("56"), st.integers(0, 2_000) | st.sampled_from(["9" * 30, "-1", ""]), NAMES,
    st.lists(PLACEHOLDER | JSON, max_size=3),
)  # fmt: skip
ANY_PACKET = st.builds(
    lambda kind, namespace, rest: f"4{kind}{namespace}{rest}", st.sampled_from("0123456789x"), NAMESPACES, TEXT | NESTED
)
ENGINE_PACKET = st.builds(lambda kind, rest: kind + rest, st.sampled_from("012356b"), TEXT)
PACKET: st.SearchStrategy[str | bytes] = st.one_of(
    EVENT, BINARY_EVENT, ANY_PACKET, ENGINE_PACKET, TEXT, st.binary(max_size=200), NESTED.map(lambda deep: "42" + deep)
)


def _frame(first: int, masked: bool, length: int | None, payload: bytes) -> bytes:
    """A WebSocket frame that may lie about its length and forget its mask."""
    said = len(payload) if length is None else length
    head = bytes([first])
    mask_bit = 0x80 if masked else 0
    if said < 126:
        head += bytes([mask_bit | said])
    elif said < 65536:
        head += bytes([mask_bit | 126]) + struct.pack(">H", said)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", said % 2**64)
    return head + (b"\0\0\0\0" if masked else b"") + payload


FRAME = st.builds(
    _frame, st.integers(0, 255) | st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89]),
    st.sampled_from([True, True, True, False]),
    st.none() | st.sampled_from([0, 125, 126, 65_535, 10**6, 2**63, 2**64 - 1]),
    st.binary(max_size=130) | TEXT.map(str.encode),
)  # fmt: skip
