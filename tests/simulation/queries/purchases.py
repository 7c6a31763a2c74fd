"""The queries of `realtime/sql/payments.sql` about purchases and the day's allowance."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.simulation.database import Row, Transaction
from tests.simulation.queries.rows import FINISHED, found, seconds


async def insert_purchase(
    tx: Transaction, purchase_id: UUID, user: str, key: str, cents: int, tokens: int, method: str, check_in_s: float,
) -> list[Row]:  # fmt: skip
    row = {
        "id": purchase_id, "user_id": user, "idempotency_key": key, "amount_cents": cents, "tokens": tokens,
        "payment_method_id": method, "status": "claimed", "spend_day": tx.began.date(), "payment_intent_id": None,
        "decline_code": None, "failure": None, "created_at": tx.began, "finished_at": None,
        "next_check_at": tx.began + seconds(check_in_s), "checks": 0, "refunded_cents": 0, "disputed_cents": 0,
        "reversed_cents": 0, "reversed_tokens": 0, "owed_tokens": 0, "adjustments": 0,
    }  # fmt: skip
    await tx.hold("purchases", purchase_id)
    tx.put("purchases", purchase_id, row)
    return found(row)


async def purchase(tx: Transaction, purchase_id: UUID) -> list[Row]:
    return found(tx.get("purchases", purchase_id))


async def lock_purchase(tx: Transaction, purchase_id: UUID) -> list[Row]:
    return found(await tx.hold("purchases", purchase_id))


async def purchase_of_payment(tx: Transaction, payment_id: str | None, named: UUID | None) -> list[Row]:
    for row in tx.rows("purchases"):
        if payment_id is not None and row["payment_intent_id"] == payment_id:
            return [{"id": row["id"]}]
    row = tx.get("purchases", named) if named else None
    return [{"id": row["id"]}] if row is not None else []


async def save_purchase(
    tx: Transaction, purchase_id: UUID, status: Any, payment_id: str | None, decline_code: str | None,
    failure: str | None, check_in_s: float,
) -> list[Row]:  # fmt: skip
    row = await tx.hold("purchases", purchase_id)
    assert row is not None
    after = row | {
        "status": str(status), "payment_intent_id": payment_id, "decline_code": decline_code, "failure": failure,
        "finished_at": tx.began if str(status) in FINISHED else None, "next_check_at": tx.began + seconds(check_in_s),
    }  # fmt: skip
    tx.put("purchases", purchase_id, after)
    return found(after)


async def save_reversal(
    tx: Transaction, purchase_id: UUID, refunded: int, disputed: int, cents: int, tokens: int, owed: int, number: int
) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    assert row is not None
    tx.put("purchases", purchase_id, row | {
        "refunded_cents": refunded, "disputed_cents": disputed, "reversed_cents": cents, "reversed_tokens": tokens,
        "owed_tokens": owed, "adjustments": number,
    })  # fmt: skip
    return []


async def due_purchases(tx: Transaction, limit: int) -> list[Row]:
    due = [row for row in tx.rows("purchases") if _check_is_due(row, tx.began)]
    return [{"id": row["id"]} for row in sorted(due, key=lambda row: row["next_check_at"])[:limit]]


def _check_is_due(row: Row, now: datetime) -> bool:
    return bool(row["status"] not in FINISHED and row["next_check_at"] <= now)


async def take_check(tx: Transaction, purchase_id: UUID, next_in_s: float) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    if row is None or not _check_is_due(row, tx.began):
        return []
    after = row | {"checks": row["checks"] + 1, "next_check_at": tx.began + seconds(next_in_s)}
    tx.put("purchases", purchase_id, after)
    return found(after | {"age": tx.began - row["created_at"]})


async def check_again(tx: Transaction, purchase_id: UUID, in_s: float) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    if row is not None and row["status"] not in FINISHED:
        tx.put("purchases", purchase_id, row | {"next_check_at": tx.began + seconds(in_s)})
    return []


async def reserve_spend(tx: Transaction, user: str, cents: int, limit: int) -> list[Row]:
    day = tx.began.date()
    seen = tx.get("spend", (user, day))
    if (seen["spent_cents"] if seen else 0) + cents > limit:
        return []
    row = await tx.hold("spend", (user, day))
    spent = (row["spent_cents"] if row else 0) + cents
    if spent > limit:
        return []
    tx.put("spend", (user, day), {"spent_cents": spent})
    return [{"true": True}]


async def spent_today(tx: Transaction, user: str) -> list[Row]:
    row = tx.get("spend", (user, tx.began.date()))
    tomorrow = tx.began.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return [{"spent_cents": row["spent_cents"] if row else 0, "resets_at": tomorrow}]


async def change_spend(tx: Transaction, user: str, day: Any, by_cents: int) -> list[Row]:
    row = await tx.hold("spend", (user, day))
    assert row is not None
    spent = row["spent_cents"] + by_cents
    assert spent >= 0, "more is given back than was spent"
    tx.put("spend", (user, day), {"spent_cents": spent})
    return []
