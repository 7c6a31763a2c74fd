"""Who is really in a video channel, from Agora's notifications, which come late, twice and out of order.

Agora numbers each user's events in the order in which they happened (`clientSeq`), so the last number seen and what it
said are all there is to remember: what is not newer is dropped, and any delivery of the same events ends in the same
state. Rules from Agora's "Channel event types" and "Maintain user status" (docs.agora.io, Agora Notifications).

Numbers are compared only while a user is remembered: for a minute after a leave, so that stragglers are known as such;
then the user is forgotten (`forgettable`), since a new session of the SDK need not count on from the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

REMEMBERED_AFTER_LEAVE_S = 60
"""How long Agora's documentation has a user's last number kept after a leave."""

HEALTH_CHECK_CHANNEL = "test_webhook"
"""Agora's health check of a webhook sends events of this channel (uid 12121212); nobody is in it."""


class LeaveReason(IntEnum):
    """Why Agora says a user left; it may send others."""

    OTHER = 0
    NORMAL = 1
    """Said good-bye."""
    TIMED_OUT = 2
    """Nothing heard for about ten seconds: gone without telling, or about to reconnect."""
    PERMISSIONS = 3
    """Put out for want of permission, as by a kicking rule."""
    SERVER_MOVED = 4
    """Agora changed servers; the SDK is back at once."""
    OTHER_DEVICE = 5
    """The same uid joined elsewhere, which is how a tab takes a call over: the user is there."""
    SEVERAL_ADDRESSES = 9
    """The SDK reconnects."""
    RECONNECTING = 10
    """The SDK reconnects."""
    ABNORMAL = 999
    """Joins and leaves too often; Agora may withhold what comes next."""


_CERTAIN = frozenset({LeaveReason.NORMAL, LeaveReason.TIMED_OUT, LeaveReason.PERMISSIONS})


@dataclass(frozen=True, slots=True)
class UserEvent:
    """One notification about one user, whatever type of event it was."""

    channel: str
    uid: int
    client_seq: int | None
    """Its place in this user's history, unique there; None where Agora sent none."""
    in_channel: bool
    """True for joins and changes of role, False for leaves."""
    at: int
    """When it happened, unix seconds."""
    reason: int | None = None
    """Of a leave: a LeaveReason, or a number not yet known."""


@dataclass(frozen=True, slots=True)
class Presence:
    """The newest that is known of one uid in one channel: the state to store."""

    client_seq: int
    in_channel: bool
    left_at: int | None = None
    """Unix seconds, by Agora's clock; None while in the channel."""
    reason: int | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """The user was not known to be in the channel, and is."""


@dataclass(frozen=True, slots=True)
class Left:
    """The user is out of the channel."""

    reason: int | None
    certain: bool
    """False: passes by itself or cannot be judged; look again later, or ask Agora for the channel's users, before
    ending anything on it. True: out until a new join; after TIMED_OUT the SDK may still come back, so the grace of a
    lost connection applies."""


class Why(StrEnum):
    HEALTH_CHECK = "health_check"
    """Agora tried the webhook."""
    UNNUMBERED = "unnumbered"
    """Without a number its place in the history is unknown."""
    STALE = "stale"
    """A newer event, or this one, was seen before."""
    ALREADY_IN = "already_in"
    """Newer, yet it says nothing new: a role changed, or the leave in between was lost or is late."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing to act on."""

    why: Why


Effect = Joined | Left | Ignored


def observe(stored: Presence | None, event: UserEvent) -> tuple[Presence | None, Effect]:
    """The state to store for the event's (channel, uid), and what is to be made of it.

    `stored` is what was stored for the same channel and uid, None if nothing or forgotten. A change of role counts as
    being there, as the join before it may come later and will then be dropped. A leave is told even if the join never
    came, and again if a newer one came after it: its reason may be the certain one.
    """
    if event.channel == HEALTH_CHECK_CHANNEL:
        return stored, Ignored(Why.HEALTH_CHECK)
    if event.client_seq is None:
        return stored, Ignored(Why.UNNUMBERED)
    if stored is not None and event.client_seq <= stored.client_seq:
        return stored, Ignored(Why.STALE)
    if not event.in_channel:
        left = Presence(event.client_seq, in_channel=False, left_at=event.at, reason=event.reason)
        return left, Left(event.reason, certain=event.reason in _CERTAIN)
    there = Presence(event.client_seq, in_channel=True)
    return there, Ignored(Why.ALREADY_IN) if stored is not None and stored.in_channel else Joined()


def forgettable(presence: Presence, stored_at: int, now: int) -> bool:
    """Whether a stored state is to be taken as none: a leave that was stored a minute ago. Unix seconds, our clock.

    The minute counts from when the leave reached us rather than from when it happened, since its stragglers come after
    that; and by one clock, Agora's being another.
    """
    return not presence.in_channel and now - stored_at >= REMEMBERED_AFTER_LEAVE_S
