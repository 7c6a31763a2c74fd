"""Idempotency keys in PostgreSQL: rows in, values out. Every function runs on the caller's connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ledger.sql import load

_SQL = load("realtime.sql", "idempotency.sql")


@dataclass(frozen=True, slots=True)
class Record:
    request_hash: bytes
    outcome: dict[str, Any] | None
    subject: UUID | None
    held: bool
    """Somebody is working on it at this moment."""


async def claim(
    conn: Any, user_id: str, key: str, request_hash: bytes, holder: UUID, hold_s: float, keep_s: int
) -> bool:
    """Make the record ours; False if there is one already."""
    row = await conn.fetchval(_SQL["claim"], user_id, key, request_hash, holder, hold_s, keep_s)
    return row is not None


async def record(conn: Any, user_id: str, key: str) -> Record | None:
    row = await conn.fetchrow(_SQL["record"], user_id, key)
    return Record(**row) if row else None


async def take_over(conn: Any, user_id: str, key: str, holder: UUID, hold_s: float) -> tuple[bool, UUID | None]:
    """Whether the record, left by a holder who has gone, is ours now, and what it is about."""
    row = await conn.fetchrow(_SQL["take_over"], user_id, key, holder, hold_s)
    return (row is not None, row["subject"] if row else None)


async def hold(conn: Any, user_id: str, key: str, holder: UUID, hold_s: float) -> None:
    """Hold the record, and keep the jobs away from what it is about; on a connection without a transaction."""
    subject = await conn.fetchval(_SQL["hold"], user_id, key, holder, hold_s)
    if subject is not None:
        await conn.execute(_SQL["keep_jobs_away"], subject, hold_s)


async def set_subject(conn: Any, user_id: str, key: str, holder: UUID, subject: UUID) -> bool:
    """Note what the request is about; False if the record is no longer its holder's."""
    return await conn.fetchval(_SQL["set_subject"], user_id, key, holder, subject) is not None


async def finish(conn: Any, user_id: str, key: str, holder: UUID, outcome: dict[str, Any]) -> bool:
    """Keep the answer; False if the record is no longer its holder's, and then nothing may be committed."""
    return await conn.fetchval(_SQL["finish"], user_id, key, holder, outcome) is not None


async def finish_subject(conn: Any, user_id: str, key: str, subject: UUID, outcome: dict[str, Any]) -> None:
    await conn.execute(_SQL["finish_subject"], user_id, key, subject, outcome)


async def forget(conn: Any, user_id: str, key: str, holder: UUID) -> None:
    await conn.execute(_SQL["forget"], user_id, key, holder)


async def forget_subject(conn: Any, user_id: str, key: str, subject: UUID) -> None:
    await conn.execute(_SQL["forget_subject"], user_id, key, subject)


async def expire(conn: Any, limit: int) -> int:
    """Remove up to `limit` records that are over; answers how many there were."""
    return int((await conn.execute(_SQL["expire"], limit)).rsplit(" ", 1)[-1])
