"""Who is in which room: the sockets of one process, by namespace.

Most rooms have one member (a user with one tab), so a room of one is the member itself and needs no container; and each
member knows its rooms, so that leaving costs what was entered and not a walk over all rooms.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import TYPE_CHECKING, Any

from realtime.fanout.timers import NOWHERE

if TYPE_CHECKING:
    from realtime.fanout.sessions import Held, Session

CONNECTING, CONNECTED, DISCONNECTING = 0, 1, 2


class Member:
    """One Socket.IO socket: a session's place in one namespace."""

    __slots__ = (
        "expires_at",
        "namespace",
        "outlet",
        "rooms",
        "session",
        "sid",
        "state",
        "tick",
        "told_expired",
        "unwanted",
    )

    def __init__(self, sid: str, namespace: str, session: Session, outlet: Held | Session) -> None:
        self.sid = sid
        self.namespace = namespace
        self.session = session
        self.outlet: Any = outlet
        """Where its messages go: the session, or what holds them back until it is connected."""
        self.rooms: tuple[Hashable, ...] = ()
        self.state = CONNECTING
        self.expires_at: float | None = None
        """When its authentication runs out, in epoch seconds."""
        self.told_expired = False
        self.unwanted = False
        """It is to be disconnected as soon as it is connected."""
        self.tick = NOWHERE

    def on_time(self, now: float) -> float | None:
        return self.session.engine.on_expiry(self, now)


Room = Member | dict[Member, None]


class Namespace:
    """The sockets and rooms of one namespace."""

    __slots__ = ("members", "rooms")

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.rooms: dict[Hashable, Room] = {}

    def enter(self, member: Member, room: Hashable) -> bool:
        """Whether it is the room's first member."""
        if room in member.rooms:
            return False
        member.rooms = (*member.rooms, room)
        present = self.rooms.get(room)
        if present is None:
            self.rooms[room] = member
            return True
        if isinstance(present, Member):
            self.rooms[room] = {present: None, member: None}
        else:
            present[member] = None
        return False

    def leave(self, member: Member, room: Hashable) -> bool:
        """Whether the room is empty now."""
        if room not in member.rooms:
            return False
        member.rooms = tuple(other for other in member.rooms if other != room)
        present = self.rooms[room]
        if isinstance(present, Member):
            del self.rooms[room]
            return True
        del present[member]
        if len(present) == 1:
            self.rooms[room] = next(iter(present))
        return False

    def within(self, room: Hashable) -> Collection[Member]:
        """The members of a room; of all rooms together, each once, for a list; of a socket's own room; of None, all."""
        if room is None:
            return self.members.values()
        if isinstance(room, (list, tuple, set, frozenset)):
            together: dict[Member, None] = {}
            for one in room:
                together.update(dict.fromkeys(self.within(one)))
            return together
        present = self.rooms.get(room)
        if present is None:
            member = self.members.get(room)  # type: ignore[call-overload]
            return () if member is None else (member,)
        return (present,) if isinstance(present, Member) else present
