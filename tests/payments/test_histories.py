"""Random histories of buying, lost answers, kills, banks, refunds and disputes: in the end, charges are credits.

Everything is real but the provider, which is in memory so that it can fail at every turn. Requests, jobs and events run
at once; a kill is the cancellation of a task wherever it happens to be. When all is quiet, each purchase must have been
charged and credited once or not at all, whatever the seed.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Coroutine
from contextlib import suppress
from random import Random
from typing import Any
from uuid import UUID

import pytest

from realtime.adapters.limiter import Allowance
from realtime.adapters.postgres import UNREACHABLE, open_pool
from realtime.adapters.stripe_gateway import ProviderUnavailable
from realtime.adapters.transactions import Database
from realtime.domain import errors
from realtime.domain.purchase import Status
from realtime.services import idempotency
from realtime.services.charging import Charging
from realtime.services.idempotency import Idempotency, Kept
from realtime.services.money_limits import MoneyLimits, Operation
from realtime.services.payments import Order, Payments
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.purchase_recovery import PurchaseRecovery
from realtime.services.refunds import Refunds
from realtime.services.stripe_events import StripeEvents
from tests.payments.conftest import Ledger
from tests.payments.provider import METHODS, TAKES_TIME, Provider

STEPS = 60
USERS = ("ann", "bob", "cat")
CENTS = (500, 700, 1100)
DAILY_CENTS = 6000
QUIET_ROUNDS = 40

EXPECTED = (errors.Refused, ProviderUnavailable, *UNREACHABLE)
"""What a request, a job or an event may meet in bad times; whoever comes next goes on."""


class Nobody:
    """A limiter that allows everything, pushes nobody hears, an observer that does not look."""

    async def take(self, policy: str, subject: str, limit: int) -> Allowance:
        return Allowance(True, limit, 60, limit, 1, policy)

    async def ping(self) -> None:
        pass

    async def emit_many(self, pushes: Any) -> None:
        pass

    def purchase(self, outcome: str) -> None:
        pass

    def stripe_event(self, outcome: str) -> None:
        pass


class History:
    def __init__(self, pool: Any, seed: int) -> None:
        self.pool, self.random = pool, Random(seed)
        self.provider = Provider(self.random, trouble=0.25)
        db, nobody = Database(pool), Nobody()
        limits = MoneyLimits(nobody, per_minute=10, daily_cents=DAILY_CENTS)  # type: ignore[arg-type]
        keys = Idempotency(db)
        records = PurchaseRecords(db=db, limits=limits, out=nobody, observer=nobody)
        charging = Charging(self.provider, records)
        self.records = records
        self.payments = Payments(
            db=db, charging=charging, records=records, limits=limits, idempotency=keys, tokens_per_usd=100
        )
        self.recovery = PurchaseRecovery(db=db, gateway=self.provider, charging=charging, records=records)
        self.refunds = Refunds(db=db, gateway=self.provider, limits=limits, idempotency=keys, out=nobody)
        self.events = StripeEvents(db=db, gateway=self.provider, records=records, out=nobody, observer=nobody)
        self.running: set[asyncio.Task[Any]] = set()
        self.answers: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        self.faults: list[BaseException] = []

    # -- what happens ----------------------------------------------------------------------------------------------

    def go(self, work: Coroutine[Any, Any, Any]) -> None:
        async def going() -> None:
            try:
                await work
            except EXPECTED:
                pass
            except Exception as error:
                self.faults.append(error)

        task = asyncio.create_task(going())
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def buy(self, user: str, key: str, order: Order) -> None:
        kept: Kept = await self.payments.buy(Operation(user, key, 3600), order)
        self.answers[user, key].append(kept.outcome)

    async def deliver(self, body: bytes) -> None:
        """An event comes again until it was answered, and sometimes after that."""
        await self.events.receive(body)
        if self.random.random() < 0.7 and body in self.provider.events:
            self.provider.events.remove(body)

    async def step(self) -> None:
        random, provider = self.random, self.provider
        match random.choice(
            ["buy"] * 8 + ["kill"] * 3 + ["deliver"] * 5 + ["jobs"] * 3 + ["bank"] * 3
            + ["again", "age", "refund", "dashboard", "dispute", "close", "call"]
        ):  # fmt: skip
            case "buy":  # of one key always the same, so that most are repetitions
                user, number = random.choice(USERS), random.randrange(6)
                order = Order(CENTS[number % 3], METHODS[number % 4])
                self.go(self.buy(user, f"key-{number}", order))
            case "kill" if self.running:
                random.choice(list(self.running)).cancel()
            case "deliver" if provider.events:
                self.go(self.deliver(random.choice(provider.events)))
            case "jobs":
                await self.all_due()
                self.go(random.choice([self.recovery.check_due, self.refunds.check_due, self.events.apply_pending])())
            case "bank" if waiting := provider.waiting():
                provider.decide(random.choice(waiting), pays=random.random() < 0.6)
            case "again" if provider.intents:
                provider.pay_again(random.choice(list(provider.intents.values())))
            case "age":
                await self.pool.execute("UPDATE purchases SET created_at = created_at - interval '3 minutes'")
            case "refund" if charged := provider.charged():
                purchase_id = random.choice(charged).purchase_id
                self.go(self.refunds.refund(Operation("root", f"refund-{random.randrange(9)}", 3600), purchase_id))
            case "dashboard" if charged := provider.charged():
                intent = random.choice(charged)
                with suppress(Exception):
                    provider.pay_back(intent, random.choice([1, 99, intent.amount_cents // 2]))
            case "dispute" if charged := provider.charged():
                intent = random.choice(charged)
                provider.dispute(intent, random.choice([intent.amount_cents, 100]))
            case "close" if disputed := provider.disputed():
                provider.close(*random.choice(disputed), random.choice(["won", "lost"]))
            case "call":
                await self.call(random.choice(USERS), random.choice([1, 50, 400]))
        for _ in range(random.randrange(3)):
            await asyncio.sleep(random.choice([0, 0.002, 0.01]))

    async def call(self, user: str, tokens: int) -> None:
        """Spend, if there is that much: a refusal is an outcome."""
        await self.pool.fetch(
            "SELECT * FROM ledger_post(ARRAY['call:' || gen_random_uuid()], ARRAY['call_debit'::transaction_type],"
            " ARRAY['{}'::jsonb], ARRAY[1, 1], ARRAY[ledger_platform_account('platform_revenue'),"
            " (SELECT id FROM accounts WHERE owner_id = $1 AND kind = 'wallet')],"
            " ARRAY[-$2::bigint, $2::bigint], 'test')",
            user,
            tokens,
        )

    async def all_due(self) -> None:
        await self.pool.execute("UPDATE purchases SET next_check_at = now()")
        await self.pool.execute("UPDATE refund_orders SET next_check_at = now()")
        await self.pool.execute("UPDATE stripe_events SET received_at = now() - interval '1 minute'")

    async def come_to_rest(self) -> None:
        """The provider works, the bank decides, events arrive, and the jobs do what is left."""
        await asyncio.gather(*self.running, return_exceptions=True)
        self.provider.trouble = 0
        await self.pool.execute("UPDATE idempotency_keys SET held_until = now()")
        for _ in range(QUIET_ROUNDS):
            for intent in self.provider.waiting():
                self.provider.decide(intent, pays=self.random.random() < 0.5)
            self.random.shuffle(self.provider.events)
            while self.provider.events:
                await self.events.receive(self.provider.events.pop())
            await self.all_due()
            await self.recovery.check_due()
            await self.refunds.check_due()
            await self.events.apply_pending()
            for row in await self.pool.fetch("DELETE FROM procrastinate_jobs RETURNING task_name, args"):
                if row["task_name"] == "cancel_payment":
                    await self.recovery.cancel_payment(**row["args"])
            if await self.at_rest():
                return
        raise AssertionError("something never ends")

    async def at_rest(self) -> bool:
        unfinished = await self.pool.fetchval("""
            SELECT (SELECT count(*) FROM purchases WHERE status NOT IN ('succeeded', 'failed'))
                 + (SELECT count(*) FROM refund_orders WHERE status = 'claimed')
                 + (SELECT count(*) FROM stripe_events WHERE applied_at IS NULL)
        """)
        return unfinished == 0 and not self.provider.waiting() and not self.provider.events

    # -- what must be true -----------------------------------------------------------------------------------------

    async def prove(self, ledger: Ledger) -> None:
        assert self.faults == []
        purchases = {row["id"]: row for row in await self.pool.fetch("SELECT * FROM purchases")}
        charged: dict[UUID, Any] = {}
        for intent in self.provider.charged():
            assert intent.charges == 1
            assert intent.purchase_id not in charged, "one purchase was charged by two payments"
            charged[intent.purchase_id] = intent
        succeeded = {id_ for id_, row in purchases.items() if row["status"] == "succeeded"}
        assert succeeded == set(charged), "charges and credits differ"
        for id_, intent in charged.items():
            row = purchases[id_]
            assert (row["payment_intent_id"], row["amount_cents"]) == (intent.id, intent.amount_cents)
            assert row["reversed_cents"] == intent.held_cents
        once = Counter((purchases[id_]["user_id"], purchases[id_]["idempotency_key"]) for id_ in succeeded)
        assert set(once.values()) <= {1}, "one key was charged twice"

        taken = sum(intent.amount_cents for intent in charged.values())
        back = sum(intent.held_cents for intent in charged.values())
        assert await ledger.balance("stripe_clearing") == taken - back
        held = await self.pool.fetchval("SELECT coalesce(sum(spent_cents), 0)::bigint FROM daily_spend")
        assert held == taken
        for user in USERS:
            bought = sum(row["tokens"] - row["reversed_tokens"] for row in await self._successes(user))
            spent = await self._spent(user)
            wallet, owed = await ledger.balance("wallet", user), await ledger.balance("receivable", user)
            assert wallet - owed == bought - spent
            assert wallet >= 0
        assert all(len({json.dumps(one) for one in answers}) == 1 for answers in self.answers.values())
        ledger.prove()

    async def _successes(self, user: str) -> list[Any]:
        found: list[Any] = await self.pool.fetch(
            "SELECT * FROM purchases WHERE user_id = $1 AND status = 'succeeded'", user
        )
        return found

    async def _spent(self, user: str) -> int:
        return int(
            await self.pool.fetchval(
                "SELECT coalesce(sum(e.amount), 0) FROM entries e JOIN journals j ON j.id = e.journal_id"
                " JOIN accounts a ON a.id = e.account_id"
                " WHERE j.type = 'call_debit' AND a.owner_id = $1 AND a.kind = 'wallet'",
                user,
            )
        )


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_charges_are_credits(
    seed: int, database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "HOLD_S", 0.1)
    monkeypatch.setattr(idempotency, "HOLD_AGAIN_AFTER_S", 0.03)
    pool = await open_pool(database_url, max_size=8)
    try:
        history = History(pool, seed)
        for _ in range(STEPS):
            await history.step()
        await history.come_to_rest()
        await history.prove(ledger)
    finally:
        await pool.close()


async def test_a_purchase_is_not_let_go_by_whom_another_overtook(database_url: str) -> None:
    pool = await open_pool(database_url, max_size=4)
    try:
        history = History(pool, seed=0)
        history.provider.trouble = 0
        await history.buy("ann", "k", Order(500, TAKES_TIME))
        [purchase] = await pool.fetch("SELECT id, status FROM purchases")
        assert purchase["status"] == "processing"
        # One whose payment could not be made, or so it seemed, comes to say so only now.
        left = await history.records.let_go(purchase["id"], "provider_unavailable")
        assert (left.status, left.failure) == (Status.PROCESSING, None)
    finally:
        await pool.close()
