"""Messages that are sent together."""

from __future__ import annotations

from collections.abc import Collection

from realtime.fanout.rooms import Member
from realtime.fanout.sessions import Held, Session


class Batch:
    """Each socket gets all of its own in one write, in order."""

    __slots__ = ("_pending", "messages")

    def __init__(self) -> None:
        self._pending: dict[Session | Held, bytes | list[bytes]] = {}
        self.messages = 0

    def add(self, members: Collection[Member], frames: bytes, packets: int = 1) -> None:
        pending = self._pending
        self.messages += packets * len(members)
        for member in members:
            outlet = member.outlet
            queued = pending.get(outlet)
            if queued is None:
                pending[outlet] = frames
            elif isinstance(queued, list):
                queued.append(frames)
            else:
                pending[outlet] = [queued, frames]

    def send(self) -> int:
        """Answers the number of bytes."""
        pending, self._pending = self._pending, {}
        size_bytes = 0
        for outlet, queued in pending.items():
            frames = queued if isinstance(queued, bytes) else b"".join(queued)
            size_bytes += len(frames)
            outlet.send(frames)
        return size_bytes
