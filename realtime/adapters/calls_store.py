"""Calls in PostgreSQL: rows in, values out. Every function is one statement on the caller's connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger.sql import load
from realtime.domain.call import Account, Call, Terms
from realtime.domain.pricing import Unused
from realtime.domain.transitions import EndReason, Status

_SQL = load("realtime.sql", "calls.sql")


@dataclass(frozen=True, slots=True)
class Billed:
    """One call the meter has just billed, or found it could not."""

    call: Call
    outcome: str
    """`posted`, `duplicate`, `insufficient_funds`, `outlived`, or another refusal of the ledger's by its name."""
    wallet: Account | None
    earnings: Account | None
    at: datetime
    """When that was, by the database's clock."""

    @property
    def debited(self) -> bool:
        return self.outcome == "posted"

    @property
    def lag_s(self) -> float:
        """How long the period had been due; a refused one ended the call where it was due."""
        assert self.call.paid_through is not None
        period_s = self.call.terms.period_s if self.debited else 0
        return max(0.0, (self.at - self.call.paid_through).total_seconds() + period_s)


@dataclass(frozen=True, slots=True)
class Ended:
    """One call that an event has just ended, and what came of giving back the rest of its last period."""

    call: Call
    settlement: str | None
    """`posted`, or a refusal of the ledger's by its name; None if nothing was to come back."""
    wallet: Account | None
    earnings: Account | None


@dataclass(frozen=True, slots=True)
class PutOutJob:
    """What is queued for each side of a call that ends unpaid, in the statement that ends it."""

    queue: str
    task: str


@dataclass(frozen=True, slots=True)
class LiveCall:
    id: UUID
    caller_id: str
    callee_id: str
    caller_absent: bool
    callee_absent: bool


def _call(row: Any) -> Call:
    return Call(
        id=row["id"],
        caller_id=row["caller_id"],
        callee_id=row["callee_id"],
        request_id=row["request_id"],
        terms=Terms(
            rate_tokens_per_period=row["rate_tokens_per_period"],
            fee_percent=row["fee_percent"],
            period_s=row["period_seconds"],
            grace_s=row["grace_seconds"],
            refund_unused_seconds=row["refund_unused_seconds"],
        ),
        status=Status(row["status"]),
        created_at=row["created_at"],
        ring_expires_at=row["ring_expires_at"],
        answered_by=row["answered_by"],
        started_at=row["started_at"],
        paid_through=row["paid_through"],
        ended_at=row["ended_at"],
        end_reason=EndReason(row["end_reason"]) if row["end_reason"] else None,
        periods_billed=row["periods_billed"],
        tokens_spent=row["tokens_spent"],
    )


def _account(row: Any, name: str) -> Account | None:
    balance = row[f"{name}_balance"]
    return None if balance is None else Account(balance_tokens=balance, version=row[f"{name}_version"])


def _billed(row: Any) -> Billed:
    wallet, earnings = _account(row, "wallet"), _account(row, "earnings")
    return Billed(_call(row), row["outcome"], wallet=wallet, earnings=earnings, at=row["now"])


def _queued(job: PutOutJob | None) -> tuple[str | None, str | None]:
    return (job.queue, job.task) if job is not None else (None, None)


async def of_request(conn: Any, caller_id: str, request_id: str) -> Call | None:
    row = await conn.fetchrow(_SQL["call_of_request"], caller_id, request_id)
    return _call(row) if row else None


async def rate_of(conn: Any, user_id: str, default_tokens_per_period: int) -> int:
    return await conn.fetchval(_SQL["rate_of"], user_id) or default_tokens_per_period


async def set_rate(conn: Any, user_id: str, tokens_per_period: int) -> None:
    await conn.execute(_SQL["set_rate"], user_id, tokens_per_period)


async def insert(
    conn: Any,
    *,
    call_id: UUID,
    caller_id: str,
    callee_id: str,
    request_id: str,
    terms: Terms,
    caller_wallet_id: int,
    callee_earnings_id: int,
    ring_timeout_s: int,
) -> Call | None:
    """Make a ringing call; None if this request has made one already."""
    row = await conn.fetchrow(
        _SQL["insert_call"],
        call_id,
        caller_id,
        callee_id,
        request_id,
        terms.rate_tokens_per_period,
        terms.fee_tokens_per_period,
        terms.fee_percent,
        terms.period_s,
        terms.grace_s,
        terms.refund_unused_seconds,
        caller_wallet_id,
        callee_earnings_id,
        ring_timeout_s,
    )
    return _call(row) if row else None


async def take_parties(conn: Any, call: Call) -> bool:
    """Put both users into the call; False if one of them is in another."""
    taken = await conn.fetch(_SQL["take_parties"], [call.caller_id, call.callee_id], call.id)
    return len(taken) == 2


async def get_at(conn: Any, call_id: UUID) -> tuple[Call, datetime] | None:
    """The call as it is, and the database's time."""
    row = await conn.fetchrow(_SQL["call_and_now"], call_id)
    return (_call(row), row["now"]) if row else None


async def get(conn: Any, call_id: UUID) -> Call | None:
    row = await conn.fetchrow(_SQL["call"], call_id)
    return _call(row) if row else None


async def live_of(conn: Any, user_ids: Sequence[str]) -> dict[str, Call]:
    return {row["user_id"]: _call(row) for row in await conn.fetch(_SQL["live_calls_of"], user_ids)}


async def answer(
    conn: Any, call: Call, answered_by: str | None, decided_at: datetime, put_out: PutOutJob | None
) -> Billed | None:
    """Make the ringing call active and bill its first period; None if it is no longer as it was decided on."""
    row = await conn.fetchrow(_SQL["answer_call"], call.id, answered_by, decided_at, *_queued(put_out))
    return _billed(row) if row else None


async def end(
    conn: Any, before: Call, after: Call, decided_at: datetime, back: Unused, put_out: PutOutJob | None
) -> Ended | None:
    """End the call as `after` says and give `back`; None if it is no longer as `before`, which that was decided on."""
    row = await conn.fetchrow(
        _SQL["end_call"],
        before.id,
        before.status,
        before.periods_billed,
        decided_at,
        after.ended_at,
        after.end_reason,
        back.tokens,
        back.from_earnings_tokens,
        *_queued(put_out),
    )
    if row is None:
        return None
    return Ended(_call(row), row["outcome"], wallet=_account(row, "wallet"), earnings=_account(row, "earnings"))


async def bill_due(conn: Any, limit: int, put_out: PutOutJob | None) -> list[Billed]:
    return [_billed(row) for row in await conn.fetch(_SQL["bill_due"], limit, *_queued(put_out))]


async def bill(conn: Any, call_id: UUID, put_out: PutOutJob | None) -> Billed | None:
    """Bill the call's next period if it is due; None if it is not."""
    row = await conn.fetchrow(_SQL["bill_call"], call_id, *_queued(put_out))
    return _billed(row) if row else None


async def due(conn: Any, limit: int) -> list[UUID]:
    return [row["id"] for row in await conn.fetch(_SQL["due"], limit)]


async def next_due_in_s(conn: Any) -> float | None:
    seconds: float | None = await conn.fetchval(_SQL["next_due_in_s"])
    return seconds


async def overdue_rings(conn: Any, limit: int) -> list[UUID]:
    return [row["id"] for row in await conn.fetch(_SQL["overdue_rings"], limit)]


async def overdue_absences(conn: Any, grace_s: int, limit: int) -> list[tuple[UUID, str, str]]:
    rows = await conn.fetch(_SQL["overdue_absences"], grace_s, limit)
    return [(row["id"], row["caller_id"], row["callee_id"]) for row in rows]


async def absences(conn: Any, limit: int) -> list[LiveCall]:
    return [LiveCall(**row) for row in await conn.fetch(_SQL["absences"], limit)]


async def live_page(conn: Any, after: UUID, limit: int) -> list[LiveCall]:
    return [LiveCall(**row) for row in await conn.fetch(_SQL["live_page"], after, limit)]


async def mark_presence(conn: Any, marks: Sequence[LiveCall]) -> None:
    await conn.execute(
        _SQL["mark_presence"],
        [mark.id for mark in marks],
        [mark.caller_absent for mark in marks],
        [mark.callee_absent for mark in marks],
    )


async def mark_present(conn: Any, user_id: str) -> None:
    await conn.execute(_SQL["mark_present"], user_id)


async def of_user(conn: Any, user_id: str, after: tuple[datetime, UUID] | None, limit: int) -> list[Call]:
    created_at, call_id = after or (None, None)
    return [_call(row) for row in await conn.fetch(_SQL["calls_of"], user_id, created_at, call_id, limit)]


async def in_call(conn: Any, user_ids: Sequence[str]) -> set[str]:
    return {row["user_id"] for row in await conn.fetch(_SQL["live_users"], list(user_ids))}


async def rates_of(conn: Any, user_ids: Sequence[str]) -> dict[str, int]:
    rows = await conn.fetch(_SQL["rates_of"], list(user_ids))
    return {row["user_id"]: row["rate_tokens_per_period"] for row in rows}
