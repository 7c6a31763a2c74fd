"""The names under which this deployment's processes reach each other on Redis.

A channel for each room that somebody is in, one for everybody of a namespace, one for each process, one for all
processes, and the one where python-socketio's own emitters publish. A room may be called anything that JSON holds; what
is no plain string stands in the name as JSON behind a zero byte, which no plain name begins with.
"""

from __future__ import annotations

import json
from collections.abc import Hashable


class Channels:
    """`prefix` is python-socketio's `channel`."""

    def __init__(self, prefix: str) -> None:
        self.stock = prefix.encode()
        """Where `socketio.AsyncRedisManager(write_only=True)` publishes."""
        self.everybody = f"{prefix}:everybody".encode()
        self._room = f"{prefix}:room:"
        self._all = f"{prefix}:all:"
        self._process = f"{prefix}:process:"

    def of_room(self, namespace: str, room: Hashable) -> bytes:
        if room is None:
            return (self._all + namespace).encode()
        if not isinstance(room, str) or room.startswith("\x00"):
            room = f"\x00{json.dumps(room)}"
        return f"{self._room}{namespace}#{room}".encode()

    def room_of(self, channel: bytes) -> tuple[str, Hashable]:
        text = channel.decode()
        if text.startswith(self._all):
            return text[len(self._all) :], None
        namespace, _, room = text[len(self._room) :].partition("#")
        return namespace, json.loads(room[1:]) if room.startswith("\x00") else room

    def of_process(self, tag: str) -> bytes:
        return (self._process + tag).encode()
