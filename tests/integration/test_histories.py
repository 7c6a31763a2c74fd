"""Random histories of calls, grants, ends, clock jumps and crashes: the ledger's invariants hold after every step.

What the meter does to a call is written here a second time, in the plainest way, and must be what it did.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from realtime import config
from realtime.adapters import calls_store
from realtime.adapters.limiter import Allowance
from realtime.adapters.transactions import Database
from realtime.domain import errors
from realtime.domain.call import Call
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.services.calls import Calls
from tests.metering import ISSUER, Heard, a_meter, grant, set_clock
from tests.servers import eventually
from tests.trying import examples

START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
USERS = ("ann", "bob", "cat")
PERIOD_S, GRACE_S, RING_S = 60, 10, 45

BROKEN = {
    "a journal that does not sum to zero in a unit": """
        SELECT e.journal_id FROM entries e JOIN accounts a ON a.id = e.account_id
        GROUP BY e.journal_id, a.unit HAVING sum(e.amount) <> 0""",
    "a journal without two entries": """
        SELECT j.id FROM journals j LEFT JOIN entries e ON e.journal_id = j.id GROUP BY j.id HAVING count(e.*) < 2""",
    "a balance that is not the sum of its entries": """
        SELECT a.id FROM accounts a LEFT JOIN entries e ON e.account_id = a.id GROUP BY a.id
        HAVING a.balance <> coalesce(sum(e.amount), 0) * CASE WHEN a.type IN ('asset', 'expense') THEN 1 ELSE -1 END""",
    "a version that is not the number of entries": """
        SELECT a.id FROM accounts a LEFT JOIN entries e ON e.account_id = a.id GROUP BY a.id
        HAVING a.version <> count(e.*)""",
    "a wallet or earnings below zero": "SELECT id FROM accounts WHERE kind IN ('wallet', 'earnings') AND balance < 0",
    "a call whose periods are not its journals": """
        SELECT c.id FROM calls c WHERE c.periods_billed <> (
            SELECT count(*) FROM journals j
            WHERE j.idempotency_key LIKE 'call:' || c.id || ':%' AND j.type = 'call_debit')""",
    "a call whose spending is not what its wallet's entries say": """
        SELECT c.id FROM calls c WHERE c.tokens_spent <> (
            SELECT coalesce(sum(e.amount), 0) FROM journals j JOIN entries e ON e.journal_id = j.id
            WHERE j.idempotency_key LIKE 'call:' || c.id || ':%' AND e.account_id = c.caller_wallet_id)""",
    "a live call without its two people": """
        SELECT c.id FROM calls c LEFT JOIN live_parties p ON p.call_id = c.id GROUP BY c.id
        HAVING count(p.*) <> CASE WHEN c.status = 'ended' THEN 0 ELSE 2 END""",
    "a debit that is not split by the fee, rounded down": """
        SELECT c.id FROM calls c JOIN journals j
            ON j.idempotency_key LIKE 'call:' || c.id || ':%' AND j.type = 'call_debit'
        JOIN entries e ON e.journal_id = j.id JOIN accounts a ON a.id = e.account_id
        GROUP BY c.id, j.id HAVING
            coalesce(sum(e.amount) FILTER (WHERE a.kind = 'wallet'), 0) <> c.rate_tokens_per_period
            OR -coalesce(sum(e.amount) FILTER (WHERE a.kind = 'platform_revenue'), 0)
                <> floor(c.rate_tokens_per_period * c.fee_percent / 100.0)""",
    "an audit log shorter than the postings": """
        SELECT 1 WHERE (SELECT count(*) FROM journals) > (
            SELECT coalesce(sum(cardinality(journal_ids)), 0) FROM financial_audit_log)""",
}
BROKEN_AT_ONCE = " UNION ALL ".join(f"SELECT $${what}$$ WHERE EXISTS ({query})" for what, query in BROKEN.items())
RATES = {"ann": 7, "bob": 13, "cat": 10}  # of which a fee of 20 percent is no whole number


ACTIVE = """
    SELECT c.id, c.periods_billed, c.paid_through, c.rate_tokens_per_period, a.balance AS funds
    FROM calls c JOIN accounts a ON a.id = c.caller_wallet_id WHERE c.status = 'active'"""
METERED = """
    SELECT id, status::text, end_reason::text, ended_at, periods_billed, tokens_spent, paid_through
    FROM calls WHERE id = ANY ($1)"""


class Everybody:
    """A presence in which all are online, and a limiter that allows everything: neither is what is tried here."""

    async def online(self, user_ids: list[str]) -> set[str]:
        return set(user_ids)

    async def take(
        self, policy: str, subject: str, limit: int, window_s: int = 60, *, operation: str | None = None
    ) -> Allowance:
        return Allowance(True, limit, window_s, limit, 1, policy)


class Histories(RuleBasedStateMachine):
    database_url: str
    rounding: str
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.pool, self.conn = self.run(self._open())
        self.now = self.latest = START
        self.run(set_clock(self.conn, self.now))
        everybody: Any = Everybody()
        self.calls = Calls(
            db=Database(self.pool),
            presence=everybody,
            limiter=everybody,
            issuer=ISSUER,
            out=Heard(),
            put_out=None,
            settings=config.load(
                billing_period_seconds=PERIOD_S, call_grace_seconds=GRACE_S, ring_timeout_seconds=RING_S,
                billing_rounding=self.rounding,
            ),
        )  # fmt: skip
        self.names = {user: f"{user}-{next(self.numbers)}" for user in USERS}
        self.made: list[Call] = []
        for user, name in self.names.items():
            self.run(grant(self.conn, name, 45))
            self.run(calls_store.set_rate(self.conn, name, RATES[user]))

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    async def _open(self) -> tuple[Any, Any]:
        pool = await asyncpg.create_pool(
            self.database_url, min_size=1, max_size=4, server_settings={"lock_timeout": "5000"}
        )
        return pool, await pool.acquire()

    def teardown(self) -> None:
        self.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        """Leave no live call behind: the next history is in the same database."""
        for call in self.made:
            await self._try(self.calls.end(call.caller_id, call.id))
        await self.pool.release(self.conn)
        await self.pool.close()

    @staticmethod
    async def _try(step: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await step
        except errors.Refused as refused:
            return refused

    @rule(user=st.sampled_from(USERS), tokens=st.integers(1, 60))
    def tokens_are_granted(self, user: str, tokens: int) -> None:
        self.run(grant(self.conn, self.names[user], tokens, key=f"g{next(self.numbers)}"))

    @rule(user=st.sampled_from(USERS))
    def a_wallet_is_emptied(self, user: str) -> None:
        balance = self.run(self.conn.fetchval(
            "SELECT balance FROM accounts WHERE owner_id = $1 AND kind = 'wallet'", self.names[user]
        ))  # fmt: skip
        if balance:
            self.run(grant(self.conn, self.names[user], -balance, key=f"t{next(self.numbers)}"))

    @initialize()
    def two_talk_already(self) -> None:
        self.someone_rings(["ann", "bob", "cat"], answered=True)

    @rule(pair=st.permutations(USERS), answered=st.booleans())
    def someone_rings(self, pair: list[str], answered: bool) -> None:
        caller = Identity(self.names[pair[0]], Trust.VIP, UserRole.USER, 2**33)
        made = self.run(self._try(self.calls.start(caller, self.names[pair[1]], f"r{next(self.numbers)}")))
        if isinstance(made, Call):
            self.made.append(made)
            if answered:
                self.run(self._try(self.calls.accept(made.callee_id, made.id, "tab")))

    @precondition(lambda self: self.made)
    @rule(data=st.data(), action=st.sampled_from(["accept", "decline", "cancel", "end", "vanish", "join", "expire"]))
    def something_happens_to_a_call(self, data: st.DataObject, action: str) -> None:
        call = data.draw(st.sampled_from(self.made[-3:]))
        if action == "accept":
            self.run(self._try(self.calls.accept(call.callee_id, call.id, "tab")))
        elif action in {"vanish", "expire"}:
            self.run(self._try(getattr(self.calls, action)(call.id)))
        else:
            user = call.callee_id if action == "decline" else call.caller_id
            self.run(self._try(getattr(self.calls, action)(user, call.id)))

    @rule(
        seconds=st.sampled_from(
            [7, 30, PERIOD_S - 5, PERIOD_S, PERIOD_S + GRACE_S - 1, PERIOD_S + GRACE_S + 1, -20, 3600]
        )
    )
    def the_clock_moves(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.latest = max(self.latest, self.now)
        self.run(set_clock(self.conn, self.now))

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def a_moment_comes_that_decides_over_a_call(self, data: st.DataObject) -> None:
        """Around the end of its paid time, or of the grace after it."""
        call = data.draw(st.sampled_from(self.made[-3:]))
        paid_through = self.run(self.conn.fetchval("SELECT paid_through FROM calls WHERE id = $1", call.id))
        seconds = data.draw(st.sampled_from([-1, 0, 1, GRACE_S - 1, GRACE_S, GRACE_S + 1]))
        if paid_through is not None:
            self.now = paid_through + timedelta(seconds=seconds)
            self.latest = max(self.latest, self.now)
            self.run(set_clock(self.conn, self.now))
            self.the_meter_runs()

    @rule()
    def the_meter_runs(self) -> None:
        expected = {row["id"]: self._metered(row) for row in self.run(self.conn.fetch(ACTIVE))}
        self.run(a_meter(Database(self.pool), Heard(), self.calls).round())
        metered = self.run(self.conn.fetch(METERED, list(expected)))
        assert {row["id"]: tuple(row)[1:] for row in metered} == expected

    def _metered(self, row: Any) -> tuple[Any, ...]:
        """The call as the meter must leave it: status, why and when it ended, periods, tokens, paid through."""
        periods, paid_through, funds = row["periods_billed"], row["paid_through"], row["funds"]
        rate = row["rate_tokens_per_period"]
        while paid_through <= self.now:
            end = None
            if periods > 0 and self.now > paid_through + timedelta(seconds=GRACE_S):
                end = "failed"
            elif funds < rate:
                end = "insufficient_funds"
            if end:
                return ("ended", end, paid_through, periods, periods * rate, paid_through)
            periods, funds, paid_through = periods + 1, funds - rate, paid_through + timedelta(seconds=PERIOD_S)
        return ("active", None, None, periods, periods * rate, paid_through)

    @rule()
    def a_meter_dies_after_billing_and_before_its_commit(self) -> None:
        async def die() -> None:
            conn = await asyncpg.connect(self.database_url)
            await conn.transaction().start()
            await conn.fetchval("SELECT count(*) FROM bill_calls(100)")
            conn.terminate()

        self.run(die())
        self.run(eventually(self._nobody_holds_a_lock))

    async def _nobody_holds_a_lock(self) -> bool:
        held = await self.conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND state IN ('active', 'idle in transaction') AND backend_type = 'client backend'"
        )
        return bool(held == 0)

    @invariant()
    def the_ledger_holds(self) -> None:
        assert [what for (what,) in self.run(self.conn.fetch(BROKEN_AT_ONCE))] == []

    @invariant()
    def nobody_paid_for_a_period_that_had_not_begun(self) -> None:
        early = self.run(self.conn.fetch(
            "SELECT id FROM calls WHERE id = ANY($1) AND paid_through - period_seconds * interval '1 second' > $2",
            [call.id for call in self.made], self.latest,
        ))  # fmt: skip
        assert not early


@pytest.mark.parametrize("rounding", ["period", "second"])
def test_the_invariants_hold_in_every_history(database_url: str, rounding: str) -> None:
    Histories.database_url, Histories.rounding = database_url, rounding
    run_state_machine_as_test(Histories, settings=examples(12, steps=30))  # type: ignore[no-untyped-call]
