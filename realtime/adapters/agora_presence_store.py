"""Who Agora says is in a channel, in PostgreSQL. Every function runs on the caller's connection."""

from __future__ import annotations

from typing import Any

from ledger.sql import load
from realtime.domain.agora_presence import Presence, forgettable

_SQL = load("realtime.sql", "agora_presence.sql")


async def lock(conn: Any, channel: str, uid: int) -> None:
    """Be the only one to observe this user of this channel until the transaction ends."""
    await conn.execute(_SQL["lock"], channel, uid)


async def get(conn: Any, channel: str, uid: int) -> Presence | None:
    """The newest that is known; None if nothing is, or it may be forgotten."""
    row = await conn.fetchrow(_SQL["presence"], channel, uid)
    if row is None:
        return None
    presence = Presence(row["client_seq"], row["in_channel"], row["left_at"], row["reason"])
    return None if forgettable(presence, row["stored_at"], row["now"]) else presence


async def is_gone(conn: Any, channel: str, uid: int, since_client_seq: int) -> bool:
    """Whether the leave with that number is still the newest that is known, however long ago it was."""
    row = await conn.fetchrow(_SQL["presence"], channel, uid)
    return row is not None and not row["in_channel"] and row["client_seq"] == since_client_seq


async def was_never_there(conn: Any, channel: str, uid: int) -> bool:
    """Whether Agora has told nothing at all of this user of the channel."""
    return await conn.fetchrow(_SQL["presence"], channel, uid) is None


async def store(conn: Any, channel: str, uid: int, presence: Presence) -> None:
    await conn.execute(
        _SQL["store"], channel, uid, presence.client_seq, presence.in_channel, presence.left_at, presence.reason
    )


async def expire(conn: Any) -> None:
    await conn.execute(_SQL["expire"])
