"""The queries of `realtime/sql/calls.sql`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from tests.simulation.database import Row, Transaction
from tests.simulation.queries.ledger import post_journals
from tests.simulation.queries.rows import found, seconds


async def call_of_request(tx: Transaction, caller: str, request: str) -> list[Row]:
    known = tx.get("requests", (caller, request))
    return found(tx.get("calls", known["id"]) if known else None)


async def rate_of(_tx: Transaction, _user: str) -> list[Row]:
    return []


async def insert_call(
    tx: Transaction, call_id: UUID, caller: str, callee: str, request: str, rate: int, fee: int, fee_percent: int,
    period_s: int, grace_s: int, refund: bool, wallet_id: int, earnings_id: int, ring_s: int,
) -> list[Row]:  # fmt: skip
    if await tx.hold("requests", (caller, request)) is not None:
        return []
    now = tx.db.clock()
    row = {
        "id": call_id, "caller_id": caller, "callee_id": callee, "request_id": request, "status": "ringing",
        "rate_tokens_per_period": rate, "fee_tokens_per_period": fee, "fee_percent": fee_percent,
        "period_seconds": period_s, "grace_seconds": grace_s, "refund_unused_seconds": refund,
        "caller_wallet_id": wallet_id, "callee_earnings_id": earnings_id, "created_at": now,
        "ring_expires_at": now + seconds(ring_s), "answered_by": None, "started_at": None, "paid_through": None,
        "ended_at": None, "end_reason": None, "periods_billed": 0, "tokens_spent": 0, "caller_absent_since": None,
        "callee_absent_since": None,
    }  # fmt: skip
    await tx.hold("calls", call_id)
    tx.put("calls", call_id, row)
    tx.put("requests", (caller, request), {"id": call_id})
    return found(row)


async def take_parties(tx: Transaction, users: list[str], call_id: UUID) -> list[Row]:
    taken = []
    for user in sorted(users):
        if await tx.hold("live", user) is None:
            tx.put("live", user, {"user_id": user, "call_id": call_id})
            taken.append({"user_id": user})
    return taken


async def call_and_now(tx: Transaction, call_id: UUID) -> list[Row]:
    row = tx.get("calls", call_id)
    return found(row and row | {"now": tx.db.clock()})


async def call(tx: Transaction, call_id: UUID) -> list[Row]:
    return found(tx.get("calls", call_id))


DECISION_HOLDS_S = 3.0
NOT_MOVED = ("wallet_balance", "wallet_version", "earnings_balance", "earnings_version")


def _holds(tx: Transaction, decided_at: datetime) -> bool:
    return decided_at <= tx.db.clock() < decided_at + seconds(DECISION_HOLDS_S)


async def answer_call(
    tx: Transaction, call_id: UUID, answered_by: str | None, decided_at: datetime, queue: str | None, task: str | None
) -> list[Row]:
    row = await tx.hold("calls", call_id)
    if row is None or row["status"] != "ringing" or not _holds(tx, decided_at):
        return []
    change = {"status": "active", "answered_by": answered_by, "started_at": decided_at, "paid_through": decided_at}
    return _put_out(tx, await _bill(tx, [await _save(tx, row, change)], tx.db.clock()), queue, task)


async def end_call(
    tx: Transaction, call_id: UUID, status: Any, periods: int, decided_at: datetime, ended_at: datetime, reason: Any,
    back: int, from_earnings: int, queue: str | None, task: str | None,
) -> list[Row]:  # fmt: skip
    row = await tx.hold("calls", call_id)
    if row is None or (row["status"], row["periods_billed"]) != (str(status), periods) or not _holds(tx, decided_at):
        return []
    answer: Row = {"outcome": None} | dict.fromkeys(NOT_MOVED)
    spent = row["tokens_spent"]
    if back:
        revenue = tx.get("account_ids", (None, "platform_revenue"))
        assert revenue is not None
        legs = [
            (row["caller_wallet_id"], -back), (row["callee_earnings_id"], from_earnings),
            (revenue["id"], back - from_earnings),
        ]  # fmt: skip
        journal = (f"call:{call_id}:settle", "call_refund", [leg for leg in legs if leg[1]])
        [posting] = await post_journals(tx, [journal])
        answer["outcome"] = posting["outcome"]
        if posting["outcome"] == "posted":
            spent -= back
            answer |= {"wallet_balance": posting["balances"][0], "wallet_version": posting["versions"][0]}
            if from_earnings:
                answer |= {"earnings_balance": posting["balances"][1], "earnings_version": posting["versions"][1]}
    change = {"status": "ended", "ended_at": ended_at, "end_reason": str(reason), "tokens_spent": spent}
    return _put_out(tx, [await _save(tx, row, change) | answer], queue, task)


def _put_out(tx: Transaction, answers: list[Row], queue: str | None, task: str | None) -> list[Row]:
    """Queue a job for each side of the calls that have ended."""
    for call in answers if task is not None else []:
        for uid in (1, 2) if call["status"] == "ended" else ():
            number = tx.db.next_number()
            arguments = {"channel": f"call_{call['id'].hex}", "uid": uid}
            tx.put("jobs", number, {"id": number, "task": task, "args": arguments, "due_at": tx.db.clock()})
    return answers


async def _save(tx: Transaction, row: Row, change: Row) -> Row:
    """Change a call, which lets its two people go when it ends."""
    after = row | change
    tx.put("calls", row["id"], after)
    if row["status"] != "ended" and after["status"] == "ended":
        for user in (row["caller_id"], row["callee_id"]):
            live = await tx.hold("live", user)
            if live is not None and live["call_id"] == row["id"]:
                tx.put("live", user, None)
    return after


async def bill_due(tx: Transaction, limit: int, queue: str | None, task: str | None) -> list[Row]:
    now = tx.db.clock()
    due = sorted((row for row in tx.rows("calls") if _is_due(row, now)), key=lambda row: row["paid_through"])
    held = []
    for row in due[:limit]:
        current = await tx.hold("calls", row["id"], skip=True)
        if current is not None and _is_due(current, now):
            held.append(current)
    return _put_out(tx, await _bill(tx, held, now), queue, task)


async def bill_call(tx: Transaction, call_id: UUID, queue: str | None, task: str | None) -> list[Row]:
    now = tx.db.clock()
    row = await tx.hold("calls", call_id)
    return _put_out(tx, await _bill(tx, [row] if row is not None and _is_due(row, now) else [], now), queue, task)


def _is_due(row: Row, now: datetime) -> bool:
    return bool(row["status"] == "active" and row["paid_through"] <= now)


async def _bill(tx: Transaction, due: list[Row], now: datetime) -> list[Row]:
    """The rules of `bill_calls`, in the order its comment has them."""
    revenue = tx.get("account_ids", (None, "platform_revenue"))
    assert revenue is not None

    def outlived(row: Row) -> bool:
        return bool(row["paid_through"] + seconds(row["grace_seconds"]) < now and row["periods_billed"] > 0)

    billable = [row for row in due if not outlived(row)]
    journals = []
    for row in billable:
        rate, fee = row["rate_tokens_per_period"], row["fee_tokens_per_period"]
        legs = [
            (row["caller_wallet_id"], rate), (row["callee_earnings_id"], fee - rate), (revenue["id"], -fee),
        ]  # fmt: skip
        key = f"call:{row['id']}:{row['periods_billed'] + 1}"
        journals.append((key, "call_debit", [leg for leg in legs if leg[1]]))
    postings = {row["id"]: posting for row, posting in zip(billable, await post_journals(tx, journals), strict=True)}
    answers = []
    for row in due:
        posting = postings.get(row["id"])
        outcome = posting["outcome"] if posting else "outlived"
        if outcome in {"posted", "duplicate"}:
            change = {
                "periods_billed": row["periods_billed"] + 1,
                "tokens_spent": row["tokens_spent"] + row["rate_tokens_per_period"],
                "paid_through": row["paid_through"] + seconds(row["period_seconds"]),
            }
        else:
            reason = "insufficient_funds" if outcome == "insufficient_funds" else "failed"
            change = {"status": "ended", "end_reason": reason, "ended_at": row["paid_through"]}
        after = await _save(tx, row, change)
        earns = row["fee_tokens_per_period"] < row["rate_tokens_per_period"]
        posted = posting is not None and outcome == "posted"
        answers.append(after | {
            "outcome": outcome,
            "now": now,
            "wallet_balance": posting["balances"][0] if posted and posting else None,
            "wallet_version": posting["versions"][0] if posted and posting else None,
            "earnings_balance": posting["balances"][1] if posted and posting and earns else None,
            "earnings_version": posting["versions"][1] if posted and posting and earns else None,
        })  # fmt: skip
    return answers


async def due(tx: Transaction, limit: int) -> list[Row]:
    now = tx.db.clock()
    due = sorted((row for row in tx.rows("calls") if _is_due(row, now)), key=lambda row: row["paid_through"])
    return [{"id": row["id"]} for row in due[:limit]]


async def next_due_in_s(tx: Transaction) -> list[Row]:
    due = [row["paid_through"] for row in tx.rows("calls") if row["status"] == "active"]
    return [{"s": (min(due) - tx.db.clock()).total_seconds() if due else None}]


async def overdue_rings(tx: Transaction, limit: int) -> list[Row]:
    now = tx.db.clock()
    rung = [row for row in tx.rows("calls") if row["status"] == "ringing" and row["ring_expires_at"] <= now]
    return [{"id": row["id"]} for row in sorted(rung, key=lambda row: row["ring_expires_at"])[:limit]]


def _absent_since(row: Row) -> datetime:
    return min(at for at in (row["caller_absent_since"], row["callee_absent_since"]) if at is not None)


def _noted_absent(tx: Transaction) -> list[Row]:
    noted = [
        row for row in tx.rows("calls")
        if row["status"] != "ended" and (row["caller_absent_since"] or row["callee_absent_since"])
    ]  # fmt: skip
    return sorted(noted, key=_absent_since)


async def overdue_absences(tx: Transaction, grace_s: int, limit: int) -> list[Row]:
    since = tx.db.clock() - seconds(grace_s)
    overdue = [row for row in _noted_absent(tx) if _absent_since(row) <= since]
    return [{name: row[name] for name in ("id", "caller_id", "callee_id")} for row in overdue[:limit]]


def _live(row: Row) -> Row:
    return {
        "id": row["id"], "caller_id": row["caller_id"], "callee_id": row["callee_id"],
        "caller_absent": row["caller_absent_since"] is not None,
        "callee_absent": row["callee_absent_since"] is not None,
    }  # fmt: skip


async def absences(tx: Transaction, limit: int) -> list[Row]:
    return [_live(row) for row in _noted_absent(tx)[:limit]]


async def live_page(tx: Transaction, after: UUID, limit: int) -> list[Row]:
    live = sorted({row["call_id"] for row in tx.rows("live") if row["call_id"] > after})[:limit]
    rows = [tx.get("calls", call_id) for call_id in live]
    return [_live(row) for row in rows if row is not None]


async def mark_presence(
    tx: Transaction, ids: list[UUID], caller_absent: list[bool], callee_absent: list[bool]
) -> list[Row]:
    now = tx.db.clock()
    for call_id, caller, callee in sorted(zip(ids, caller_absent, callee_absent, strict=True)):
        row = await tx.hold("calls", call_id)
        if row is not None and row["status"] != "ended":
            tx.put("calls", call_id, row | {
                "caller_absent_since": (row["caller_absent_since"] or now) if caller else None,
                "callee_absent_since": (row["callee_absent_since"] or now) if callee else None,
            })  # fmt: skip
    return []


async def mark_present(tx: Transaction, user: str) -> list[Row]:
    live = tx.get("live", user)
    row = await tx.hold("calls", live["call_id"]) if live else None
    if row is not None and row["status"] != "ended":
        side = "caller_absent_since" if row["caller_id"] == user else "callee_absent_since"
        tx.put("calls", row["id"], row | {side: None})
    return []


async def live_calls_of(tx: Transaction, users: list[str]) -> list[Row]:
    live = [row for user in sorted(set(users)) if (row := tx.get("live", user)) is not None]
    return [{"user_id": row["user_id"]} | call for row in live if (call := tx.get("calls", row["call_id"])) is not None]
