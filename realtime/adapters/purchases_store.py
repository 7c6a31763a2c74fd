"""Purchases and what belongs to them in PostgreSQL: rows in, values out, each on the caller's connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.sql import load
from realtime.domain.purchase import Purchase, Status

_SQL = load("realtime.sql", "payments.sql")
_FIELDS = tuple(name for name in Purchase.__dataclass_fields__ if name != "status")


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """An admin's order to pay a purchase back whole."""

    purchase_id: UUID
    admin_id: str
    idempotency_key: str
    status: str
    """`claimed`, `done`, or `refused` by the provider."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeptEvent:
    id: str
    type: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SpentToday:
    spent_cents: int
    resets_at: datetime


def _purchase(row: Any) -> Purchase:
    return Purchase(status=Status(row["status"]), **{name: row[name] for name in _FIELDS})


async def insert(
    conn: Any,
    *,
    purchase_id: UUID,
    user_id: str,
    idempotency_key: str,
    amount_cents: int,
    tokens: int,
    payment_method_id: str,
    check_in_s: float,
) -> Purchase:
    return _purchase(
        await conn.fetchrow(
            _SQL["insert_purchase"],
            purchase_id,
            user_id,
            idempotency_key,
            amount_cents,
            tokens,
            payment_method_id,
            check_in_s,
        )
    )


async def get(conn: Any, purchase_id: UUID) -> Purchase | None:
    row = await conn.fetchrow(_SQL["purchase"], purchase_id)
    return _purchase(row) if row else None


async def lock(conn: Any, purchase_id: UUID) -> Purchase | None:
    """The purchase, held until the transaction ends."""
    row = await conn.fetchrow(_SQL["lock_purchase"], purchase_id)
    return _purchase(row) if row else None


async def of_payment(conn: Any, payment_intent_id: str | None, named: UUID | None) -> UUID | None:
    """The purchase of a payment: the one that has its id, else the one it names, which may have another payment."""
    found: UUID | None = await conn.fetchval(_SQL["purchase_of_payment"], payment_intent_id, named)
    return found


async def save(conn: Any, purchase: Purchase, *, check_in_s: float) -> Purchase:
    return _purchase(
        await conn.fetchrow(
            _SQL["save_purchase"],
            purchase.id,
            purchase.status,
            purchase.payment_intent_id,
            purchase.decline_code,
            purchase.failure,
            check_in_s,
        )
    )


async def save_reversal(conn: Any, purchase: Purchase) -> None:
    await conn.execute(
        _SQL["save_reversal"],
        purchase.id,
        purchase.refunded_cents,
        purchase.disputed_cents,
        purchase.reversed_cents,
        purchase.reversed_tokens,
        purchase.owed_tokens,
        purchase.adjustments,
    )


async def due(conn: Any, limit: int) -> list[UUID]:
    return [row["id"] for row in await conn.fetch(_SQL["due_purchases"], limit)]


async def take_check(conn: Any, purchase_id: UUID, next_in_s: float) -> tuple[Purchase, timedelta] | None:
    """The purchase and its age by the database's clock, if it is due and no other job has just taken it."""
    row = await conn.fetchrow(_SQL["take_check"], purchase_id, next_in_s)
    return (_purchase(row), row["age"]) if row else None


async def check_again(conn: Any, purchase_id: UUID, in_s: float) -> None:
    await conn.execute(_SQL["check_again"], purchase_id, in_s)


async def reserve_spend(conn: Any, user_id: str, cents: int, limit_cents: int) -> bool:
    """Take `cents` of the allowance for the day on which the transaction began; False if not that much is left."""
    return await conn.fetchval(_SQL["reserve_spend"], user_id, cents, limit_cents) is not None


async def spent_today(conn: Any, user_id: str) -> SpentToday:
    return SpentToday(**await conn.fetchrow(_SQL["spent_today"], user_id))


async def change_spend(conn: Any, user_id: str, day: date, by_cents: int) -> None:
    await conn.execute(_SQL["change_spend"], user_id, day, by_cents)


async def expire(conn: Any) -> None:
    """Remove allowances and events long past."""
    await conn.execute(_SQL["expire_spend"])
    await conn.execute(_SQL["expire_events"])


async def order_refund(conn: Any, purchase_id: UUID, admin_id: str, key: str, check_in_s: float) -> bool:
    """Order a refund; False if one is ordered already."""
    return await conn.fetchval(_SQL["order_refund"], purchase_id, admin_id, key, check_in_s) is not None


async def refund_order(conn: Any, purchase_id: UUID) -> RefundOrder | None:
    row = await conn.fetchrow(_SQL["refund_order"], purchase_id)
    return RefundOrder(**row) if row else None


async def take_refund_check(conn: Any, purchase_id: UUID, next_in_s: float) -> RefundOrder | None:
    row = await conn.fetchrow(_SQL["take_refund_check"], purchase_id, next_in_s)
    return RefundOrder(**row) if row else None


async def due_refunds(conn: Any, limit: int) -> list[UUID]:
    return [row["purchase_id"] for row in await conn.fetch(_SQL["due_refunds"], limit)]


async def finish_refund(conn: Any, purchase_id: UUID, status: str) -> None:
    await conn.execute(_SQL["finish_refund"], purchase_id, status)


async def note_dispute(conn: Any, dispute_id: str, purchase_id: UUID, amount_cents: int, status: str) -> int:
    """Note where a dispute stands; answers what disputes now hold of the purchase, in cents."""
    await conn.execute(_SQL["note_dispute"], dispute_id, purchase_id, amount_cents, status)
    held: int = await conn.fetchval(_SQL["disputed_cents"], purchase_id)
    return held


async def note_event(conn: Any, event_id: str, kind: str, facts: Mapping[str, Any]) -> bool:
    """Keep an event; False if it was kept before."""
    return await conn.fetchval(_SQL["note_event"], event_id, kind, dict(facts)) is not None


async def event(conn: Any, event_id: str) -> KeptEvent | None:
    """The event, if it has not taken effect yet."""
    row = await conn.fetchrow(_SQL["event"], event_id)
    return KeptEvent(**row) if row else None


async def lock_event(conn: Any, event_id: str) -> KeptEvent | None:
    """The event, if it has not taken effect yet, held until the transaction ends."""
    row = await conn.fetchrow(_SQL["lock_event"], event_id)
    return KeptEvent(**row) if row else None


async def finish_event(conn: Any, event_id: str, outcome: str) -> bool:
    """The event has taken effect, or needs none; False if that was noted before."""
    return await conn.fetchval(_SQL["finish_event"], event_id, outcome) is not None


async def note_attempt(conn: Any, event_id: str) -> None:
    await conn.execute(_SQL["note_attempt"], event_id)


async def pending_events(conn: Any, older_than_s: float, limit: int) -> list[str]:
    return [row["id"] for row in await conn.fetch(_SQL["pending_events"], older_than_s, limit)]
