"""What a crowd's calls should have cost by time and rules, and what the books say they did."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from ledger.verify import verify
from tests.faults.crowd import Crowd

_CALLS = """
SELECT id, caller_id, callee_id, status::text, end_reason::text, started_at, ended_at, paid_through, period_seconds,
       grace_seconds, periods_billed, tokens_spent, rate_tokens_per_period AS rate, fee_tokens_per_period AS fee
FROM calls WHERE id = ANY($1)
"""
_DEBITS = """
SELECT split_part(idempotency_key, ':', 2)::uuid AS call_id, split_part(idempotency_key, ':', 3)::int AS period,
       created_at
FROM journals
WHERE type = 'call_debit' AND split_part(idempotency_key, ':', 2) = ANY($1::text[])
ORDER BY 1, 2
"""
_BALANCES = "SELECT owner_id, kind::text, balance FROM accounts WHERE owner_id = ANY($1)"
_OVERDUE = """
SELECT count(*) FROM calls WHERE id = ANY($1) AND status = 'active' AND paid_through < meter_now() - interval '0.3 s'
"""


@dataclass(frozen=True, slots=True)
class Books:
    calls: int
    periods: int
    lost_tokens: int
    """Debited and not owed, or owed and not debited, over all calls, whichever way."""
    latest_debit_s: float
    """The longest that a period had begun before it was debited, those of answered calls' first aside."""
    reasons: dict[str, int]


def periods_owed(call: Any) -> int:
    """Each period that had begun when the call ended, and none besides.

    A call that ended unpaid ended where it was paid to: then the periods owed are those that were paid.
    """
    if call["started_at"] is None:
        return 0
    end = call["ended_at"]
    passed_s = (end - call["started_at"]).total_seconds()
    whole, rest = divmod(passed_s, call["period_seconds"])
    unpaid = call["end_reason"] in {"insufficient_funds", "failed"}
    assert not unpaid or (rest == 0 and end == call["paid_through"]), "an unpaid call ends where it was paid to"
    return int(whole) if unpaid else int(whole) + 1


async def audit(conn: Any, database_url: str, crowd: Crowd) -> Books:
    """Read the books when all calls of the crowd have ended."""
    calls = await conn.fetch(_CALLS, crowd.call_ids)
    debits: dict[Any, list[Any]] = defaultdict(list)
    for row in await conn.fetch(_DEBITS, [str(call_id) for call_id in crowd.call_ids]):
        debits[row["call_id"]].append(row)
    people = [person.user for person in crowd.people]
    balance = {(row["owner_id"], row["kind"]): row["balance"] for row in await conn.fetch(_BALANCES, people)}
    lost, periods, latest_s = 0, 0, 0.0
    reasons: dict[str, int] = defaultdict(int)
    for call in calls:
        assert call["status"] == "ended", call
        reasons[call["end_reason"]] += 1
        owed = periods_owed(call)
        periods += owed
        spent = crowd.tokens - balance[call["caller_id"], "wallet"]
        earned = balance.get((call["callee_id"], "earnings"), 0)
        lost += abs(spent - owed * call["rate"]) + abs(earned - owed * (call["rate"] - call["fee"]))
        assert call["periods_billed"] == owed, call
        assert [row["period"] for row in debits[call["id"]]] == list(range(1, owed + 1)), "each period once, in order"
        for row in debits[call["id"]][1:]:
            began_s = (row["created_at"] - call["started_at"]).total_seconds()
            latest_s = max(latest_s, began_s - (row["period"] - 1) * call["period_seconds"])
    verdict = await asyncio.to_thread(verify, database_url)
    assert verdict.findings == ()
    assert len(calls) == len(crowd.call_ids)
    return Books(len(calls), periods, lost, latest_s, dict(reasons))


async def nothing_overdue(conn: Any, crowd: Crowd) -> bool:
    """Whether every active call of the crowd is paid up to now."""
    return int(await conn.fetchval(_OVERDUE, crowd.call_ids)) == 0
