"""The queries of `realtime/sql/idempotency.sql`."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from tests.simulation.database import Row, Transaction
from tests.simulation.queries.rows import FINISHED, seconds


async def claim(
    tx: Transaction, user: str, key: str, request_hash: bytes, holder: UUID, hold_s: float, keep_s: int
) -> list[Row]:
    known = await tx.hold("keys", (user, key))
    if known is not None and (known["outcome"] is None or known["expires_at"] > tx.began):
        return []
    tx.put("keys", (user, key), {
        "request_hash": request_hash, "holder": holder, "held_until": tx.began + seconds(hold_s), "subject": None,
        "outcome": None, "expires_at": tx.began + seconds(keep_s),
    })  # fmt: skip
    return [{"holder": holder}]


async def record(tx: Transaction, user: str, key: str) -> list[Row]:
    row = tx.get("keys", (user, key))
    if row is None:
        return []
    return [{
        "request_hash": row["request_hash"], "outcome": row["outcome"], "subject": row["subject"],
        "held": row["held_until"] > tx.began,
    }]  # fmt: skip


async def _change_key(tx: Transaction, user: str, key: str, change: Row, fits: Callable[[Row], bool]) -> Row | None:
    row = await tx.hold("keys", (user, key))
    if row is None or row["outcome"] is not None or not fits(row):
        return None
    tx.put("keys", (user, key), row | change)
    return row | change


async def take_over(tx: Transaction, user: str, key: str, holder: UUID, hold_s: float) -> list[Row]:
    change = {"holder": holder, "held_until": tx.began + seconds(hold_s)}
    row = await _change_key(tx, user, key, change, lambda row: row["held_until"] <= tx.began)
    return [{"subject": row["subject"]}] if row else []


async def hold(tx: Transaction, user: str, key: str, holder: UUID, hold_s: float) -> list[Row]:
    change = {"held_until": tx.began + seconds(hold_s)}
    row = await _change_key(tx, user, key, change, lambda row: row["holder"] == holder)
    return [{"subject": row["subject"]}] if row else []


async def keep_jobs_away(tx: Transaction, purchase_id: UUID, hold_s: float) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    if row is not None and row["status"] not in FINISHED:
        later = max(row["next_check_at"], tx.began + seconds(hold_s))
        tx.put("purchases", purchase_id, row | {"next_check_at": later})
    return []


async def set_subject(tx: Transaction, user: str, key: str, holder: UUID, subject: UUID) -> list[Row]:
    row = await _change_key(tx, user, key, {"subject": subject}, lambda row: row["holder"] == holder)
    return [{"true": True}] if row else []


async def finish(tx: Transaction, user: str, key: str, holder: UUID, outcome: Row) -> list[Row]:
    change = {"outcome": outcome, "held_until": tx.began}
    row = await _change_key(tx, user, key, change, lambda row: row["holder"] == holder)
    return [{"true": True}] if row else []


async def finish_subject(tx: Transaction, user: str, key: str, subject: UUID, outcome: Row) -> list[Row]:
    change = {"outcome": outcome, "held_until": tx.began}
    await _change_key(tx, user, key, change, lambda row: row["subject"] == subject)
    return []


async def forget(tx: Transaction, user: str, key: str, holder: UUID) -> list[Row]:
    row = await tx.hold("keys", (user, key))
    if row is not None and row["holder"] == holder and row["outcome"] is None and row["subject"] is None:
        tx.put("keys", (user, key), None)
    return []


async def forget_subject(tx: Transaction, user: str, key: str, subject: UUID) -> list[Row]:
    row = await tx.hold("keys", (user, key))
    if row is not None and row["subject"] == subject and row["outcome"] is None:
        tx.put("keys", (user, key), None)
    return []
