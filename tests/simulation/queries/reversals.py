"""The queries of `realtime/sql/payments.sql` about refunds, disputes and the provider's events."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.simulation.database import Row, Transaction
from tests.simulation.queries.rows import seconds

ORDER = ("purchase_id", "admin_id", "idempotency_key", "status", "created_at")
KEPT = ("id", "type", "facts")


def _columns(row: Row, names: tuple[str, ...]) -> Row:
    return {name: row[name] for name in names}


# -- orders to pay a purchase back -------------------------------------------------------------------------------------


async def order_refund(tx: Transaction, purchase_id: UUID, admin: str, key: str, check_in_s: float) -> list[Row]:
    row = await tx.hold("refund_orders", purchase_id)
    if row is not None and row["status"] != "refused":
        return []
    tx.put("refund_orders", purchase_id, {
        "purchase_id": purchase_id, "admin_id": admin, "idempotency_key": key, "status": "claimed",
        "created_at": tx.began, "next_check_at": tx.began + seconds(check_in_s),
    })  # fmt: skip
    return [{"true": True}]


async def refund_order(tx: Transaction, purchase_id: UUID) -> list[Row]:
    row = tx.get("refund_orders", purchase_id)
    return [_columns(row, ORDER)] if row is not None else []


def _order_is_due(row: Row | None, tx: Transaction) -> bool:
    return row is not None and row["status"] == "claimed" and row["next_check_at"] <= tx.began


async def take_refund_check(tx: Transaction, purchase_id: UUID, next_in_s: float) -> list[Row]:
    row = await tx.hold("refund_orders", purchase_id)
    if row is None or not _order_is_due(row, tx):
        return []
    tx.put("refund_orders", purchase_id, row | {"next_check_at": tx.began + seconds(next_in_s)})
    return [_columns(row, ORDER)]


async def due_refunds(tx: Transaction, limit: int) -> list[Row]:
    due = [row for row in tx.rows("refund_orders") if _order_is_due(row, tx)]
    return [{"purchase_id": row["purchase_id"]} for row in sorted(due, key=lambda row: row["next_check_at"])[:limit]]


async def finish_refund(tx: Transaction, purchase_id: UUID, status: str) -> list[Row]:
    row = await tx.hold("refund_orders", purchase_id)
    if row is not None:
        tx.put("refund_orders", purchase_id, row | {"status": status})
    return []


# -- disputes ----------------------------------------------------------------------------------------------------------


async def note_dispute(tx: Transaction, dispute_id: str, purchase_id: UUID, cents: int, status: str) -> list[Row]:
    row = await tx.hold("disputes", dispute_id)
    if row is None or row["status"] == "open":
        new = row or {"id": dispute_id, "purchase_id": purchase_id}
        tx.put("disputes", dispute_id, new | {"amount_cents": cents, "status": status})
    return []


async def disputed_cents(tx: Transaction, purchase_id: UUID) -> list[Row]:
    held = (
        row["amount_cents"] for row in tx.rows("disputes")
        if row["purchase_id"] == purchase_id and row["status"] != "won"
    )  # fmt: skip
    return [{"cents": sum(held)}]


# -- the provider's events ---------------------------------------------------------------------------------------------


async def note_event(tx: Transaction, event_id: str, kind: str, facts: dict[str, Any]) -> list[Row]:
    if await tx.hold("events", event_id) is not None:
        return []
    tx.put("events", event_id, {
        "id": event_id, "type": kind, "facts": facts, "received_at": tx.began, "applied_at": None, "outcome": None,
        "attempts": 0,
    })  # fmt: skip
    return [{"true": True}]


async def event(tx: Transaction, event_id: str) -> list[Row]:
    row = tx.get("events", event_id)
    return [_columns(row, KEPT)] if row is not None and row["applied_at"] is None else []


async def lock_event(tx: Transaction, event_id: str) -> list[Row]:
    row = await tx.hold("events", event_id)
    return [_columns(row, KEPT)] if row is not None and row["applied_at"] is None else []


async def finish_event(tx: Transaction, event_id: str, outcome: str) -> list[Row]:
    row = await tx.hold("events", event_id)
    if row is None or row["applied_at"] is not None:
        return []
    change = {"applied_at": tx.began, "outcome": outcome, "attempts": row["attempts"] + 1}
    tx.put("events", event_id, row | change)
    return [{"true": True}]


async def note_attempt(tx: Transaction, event_id: str) -> list[Row]:
    row = await tx.hold("events", event_id)
    if row is not None and row["applied_at"] is None:
        tx.put("events", event_id, row | {"attempts": row["attempts"] + 1})
    return []


async def pending_events(tx: Transaction, older_than_s: float, limit: int) -> list[Row]:
    before = tx.began - seconds(older_than_s)
    waiting = [row for row in tx.rows("events") if row["applied_at"] is None and row["received_at"] < before]
    return [{"id": row["id"]} for row in sorted(waiting, key=lambda row: row["received_at"])[:limit]]
