"""One history: people who ring each other, talk and buy, on processes that die, over connections that break.

The services and the domain are the real ones; only what they stand on is modelled (`database.py`, `vendors.py`). Every
statement, commit, request to the provider and question to Redis is a place where the seed may kill the process, lose
the connection before or after the effect, or let time go by. After each commit and each charge the invariants are
checked; at the end, when all has come to rest, every call and purchase is held against what time and rules say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar
from unittest import mock
from uuid import UUID

import asyncpg
import structlog
from redis.exceptions import RedisError

from ledger import store
from ledger.journals import Journal, Leg, TransactionType
from realtime import config
from realtime.adapters.calls_store import PutOutJob
from realtime.adapters.postgres import UNREACHABLE
from realtime.domain import call as call_domain
from realtime.domain import errors, transitions
from realtime.domain import purchase as purchase_domain
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.edge.errors import as_refused
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls, Unobserved
from realtime.services.charging import Charging
from realtime.services.idempotency import Idempotency
from realtime.services.metering import Meter
from realtime.services.money_limits import MoneyLimits, Operation
from realtime.services.payments import Order, Payments
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.purchase_recovery import PurchaseRecovery
from tests.simulation import queries, vendors
from tests.simulation.clock import VirtualLoop
from tests.simulation.database import IDLE_IN_TRANSACTION_S, Connection, Database, Key, NoFaults, Row, Transactions

T = TypeVar("T")

USERS = ("ann", "bob", "cat")
PROCESSES = 2
PERIOD_S, GRACE_S, RING_S, AWAY_S = 7, 5, 10, 8
RATE, DAILY_LIMIT_CENTS = 10, 2_000
LASTS_S = 30.0
SLOWEST_S = 8.0
RESTS_FOR_S = 3 * 3600.0
METER_EVERY_S, SWEEP_EVERY_S, JOBS_EVERY_S = 2.0, 4.0, 1.0

KILL, BREAK, SLOW = 0.003, 0.01, 0.03
"""The chances at each step: the process dies, the connection goes, seconds pass."""

_SETTINGS = {
    rounding: config.load(
        _env_file=None, billing_period_seconds=PERIOD_S, call_grace_seconds=GRACE_S, ring_timeout_seconds=RING_S,
        reconnect_grace_seconds=AWAY_S, default_rate_tokens_per_period=RATE, billing_rounding=rounding,
    )
    for rounding in ("period", "second")
}  # fmt: skip
_QUERIES = queries.by_text()
PUT_OUT = PutOutJob("jobs", "put_out")


class Broken(AssertionError):
    """An invariant does not hold."""


class Lost(Exception):
    """The process died under the request: its client does not know what became of it."""


class NoPurchaseNoise:
    def purchase(self, outcome: str) -> None: ...


class Process:
    """One of ours: everything it is made of, and its loops."""

    def __init__(self, history: History, name: str) -> None:
        self.name = name
        self.alive = True
        self.died_at: float | None = None
        self.died: asyncio.Future[None] = history.loop.create_future()
        self._history = history
        self.db = Transactions(history.db, _QUERIES, history, owner=self)
        db: Any = self.db
        self.presence = vendors.Presence(history, self)
        presence: Any = self.presence
        limiter: Any = vendors.Limiter(history, self)
        out, issuer, gateway = vendors.Out(history, self), vendors.Issuer(), vendors.Gateway(history, self)
        self.calls = Calls(
            db=db, presence=presence, limiter=limiter, issuer=issuer, out=out, put_out=PUT_OUT,
            settings=history.settings,
        )  # fmt: skip
        self.meter = Meter(db=db, calls=self.calls, issuer=issuer, out=out, put_out=PUT_OUT,
                           observer=Unobserved())  # fmt: skip
        self.attendance = Attendance(db=db, presence=presence, calls=self.calls, reconnect_grace_s=AWAY_S)
        limits = MoneyLimits(limiter, per_minute=1000, daily_cents=DAILY_LIMIT_CENTS)
        self.records = PurchaseRecords(db=db, limits=limits, out=out, observer=NoPurchaseNoise())
        charging = Charging(gateway, self.records)  # type: ignore[arg-type]
        self.payments = Payments(
            db=db, charging=charging, records=self.records, limits=limits, idempotency=Idempotency(db),
            tokens_per_usd=100,
        )  # fmt: skip
        self.recovery = PurchaseRecovery(db=db, gateway=gateway, charging=charging, records=self.records)  # type: ignore[arg-type]
        self.gateway = gateway

    def start(self) -> None:
        self._history.spawn(self._every(METER_EVERY_S, self.meter.round))
        self._history.spawn(self._every(SWEEP_EVERY_S, self.attendance.sweep))

    async def _every(self, pause_s: float, step: Any) -> None:
        while self.alive and not self._history.resting:
            try:
                await step()
            except (*UNREACHABLE, RedisError):
                pass
            except Exception as error:
                self._history.fail(error)
            await asyncio.sleep(pause_s)

    def die(self) -> None:
        self.alive = False
        self.died_at = asyncio.get_running_loop().time()
        self.db.break_off()
        self.died.set_result(None)


class History:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.failure: BaseException | None = None
        self.faulty = True
        self.resting = False
        self.settings = _SETTINGS[self.random.choice(["period", "second"])]
        self.db = Database(self._committed)
        self.provider = vendors.Provider(self)
        self.processes: list[Process] = []
        self.steps = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._stood: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._begun = dict.fromkeys(USERS, 0)
        self.put_out: Counter[tuple[str, int]] = Counter()
        self.loop: asyncio.AbstractEventLoop

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, loop: VirtualLoop) -> None:
        """Raises Broken, naming what did not hold."""
        self.loop = loop
        with self._seeded():
            try:
                loop.run_until_complete(self._run())
            finally:
                left = {task for task in self._tasks if not task.done()}
                while left:  # what a dead process would still have told in a `finally` stands still once more: see hop
                    for task in left:
                        task.cancel()
                    _, left = loop.run_until_complete(asyncio.wait(left, timeout=1))
                loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        if self.failure is not None:
            raise Broken(repr(self.failure)) from self.failure

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        """Ids are of the seed as well, since rows are ordered and locked by them."""
        with contextlib.ExitStack() as stack:
            for name in ("calls.new_id", "payments.new_id", "idempotency.uuid4"):
                stack.enter_context(mock.patch(f"realtime.services.{name}", self._new_id))
            yield

    def _new_id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128))

    async def _run(self) -> None:
        began = self.loop.time()
        self.db.offset_s = -began
        queries.make_platform_accounts(self.db)
        async with Transactions(self.db, _QUERIES, NoFaults()).begin() as conn:
            granted: Any = conn
            for user in USERS:
                await self._grant(granted, user, self.random.choice([0, 15, 35, 60, 200]))
        for _ in range(PROCESSES):
            self._start_process()
        people = [self.spawn(self._live(user)) for user in USERS]
        self.spawn(self._operate())
        jobs = self.spawn(self._work_off_jobs())
        await asyncio.sleep(LASTS_S)
        self.faulty = False
        for task in people:
            task.cancel()
        await asyncio.gather(*people, return_exceptions=True)
        if self.failure is None:
            await self._come_to_rest()
        jobs.cancel()
        if self.failure is None:
            self._check_rest()

    async def _grant(self, conn: Any, user: str, tokens: int) -> None:
        [wallet] = await store.ensure_accounts(conn, [(user, "wallet")])
        granted = await store.platform_account(conn, "granted_tokens")
        self._begun[user] = tokens
        if tokens:
            legs = (Leg(granted, tokens), Leg(wallet, -tokens))
            await store.post(conn, [Journal(f"grant:{user}", TransactionType.GRANT, legs)], actor="root")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self._tasks.append(task)
        return task

    def note(self, line: str) -> None:
        self.trace.append(f"{self.loop.time() + self.db.offset_s:8.2f}  {line}")

    def fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self.note(f"BROKEN: {error!r}")

    # -- faults --------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.faulty and self.random.random() < probability

    async def before(self, link: Connection) -> None:
        """A statement or a commit is on its way."""
        self.steps += 1
        if link.owner is not None:
            await self.hop(link.owner, link)
            self._strain(link)

    async def after(self, link: Connection) -> None:
        """It has taken effect, and its answer is on its way."""
        if link.owner is not None:
            if self._meets_death(link.owner):
                await self.loop.create_future()
            self._strain(link)

    def _strain(self, link: Connection) -> None:
        if self.chance(BREAK):
            self.note(f"{link.owner.name}: a connection breaks")
            link.break_off()
            raise asyncpg.ConnectionDoesNotExistError("the connection was closed in the middle of an operation")

    def _meets_death(self, process: Process) -> bool:
        if process.alive and self.chance(KILL):
            self.note(f"{process.name}: killed")
            process.die()
        return not process.alive

    async def hop(self, process: Process, link: Connection | None = None) -> None:
        """Time passes, or the process dies. Of a dead process nothing goes on."""
        self._meets_death(process)
        await asyncio.sleep(self._pause_s(link))
        if not process.alive:
            await self.loop.create_future()

    def _pause_s(self, link: Connection | None) -> float:
        if self.chance(SLOW):
            pause_s = self.random.uniform(0.1, SLOWEST_S)
            if link is not None and link.tx is not None and pause_s > IDLE_IN_TRANSACTION_S:
                self.loop.call_later(IDLE_IN_TRANSACTION_S, link.break_off)
            return pause_s
        return self.random.choice((0.0, 0.0, 0.0, 0.002, 0.01))

    def _start_process(self) -> None:
        process = Process(self, f"process {len(self.processes) + 1}")
        self.processes.append(process)
        process.start()
        self.note(f"{process.name}: started")

    async def _operate(self) -> None:
        """Dead processes are replaced."""
        while not self.resting:
            if sum(process.alive for process in self.processes) < PROCESSES:
                await asyncio.sleep(self.random.uniform(0.2, 4.0) if self.faulty else 0.1)
                self._start_process()
            await asyncio.sleep(0.5)

    async def _some_process(self) -> Process:
        while not (alive := [process for process in self.processes if process.alive]):
            await asyncio.sleep(0.1)
        return self.random.choice(alive)

    async def ask(self, process: Process, work: Awaitable[T]) -> T | errors.Refused:
        """What a client gets: an answer, or a refusal. Raises Lost if the process dies under it."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        await asyncio.wait([task, process.died], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Lost
        if (error := task.exception()) is None:
            return task.result()
        refused = as_refused(error)
        if refused is None:
            self.fail(error)
            raise Lost
        return refused

    # -- people --------------------------------------------------------------------------------------------------

    async def _live(self, user: str) -> None:
        tab: Process | None = None
        number = 0
        while True:
            if tab is None or not tab.alive:
                tab = await self._open_tab(user)
            await asyncio.sleep(self.random.expovariate(1.0))
            number += 1
            action = self.random.choices(
                ("ring", "answer", "hang up", "buy", "leave", "hurry", "settle"), (5, 6, 2, 3, 1, 2, 2)
            )[0]
            try:
                if action == "ring":
                    await self._ring(user, f"{user}-{number}")
                elif action in {"answer", "hang up"}:
                    await self._use_call(user, action)
                elif action == "buy":
                    await self._buy(user, f"{user}-{number}")
                elif action == "leave" and tab.alive:
                    with contextlib.suppress(RedisError):
                        await self.ask(tab, tab.attendance.left(user))
                    await asyncio.sleep(self.random.choice([0.5, 3.0, AWAY_S + 8.0]))
                    tab = None
                elif action == "hurry":
                    await self._provider_tells()
                elif action == "settle":
                    self._provider_moves()
            except Lost:
                self.note(f"{user}: lost the connection ({action})")

    async def _open_tab(self, user: str) -> Process:
        process = await self._some_process()
        with contextlib.suppress(Lost):
            await self.ask(process, process.attendance.arrived(user))
        return process

    async def _ring(self, user: str, request_id: str) -> None:
        callee = self.random.choice([other for other in USERS if other != user])
        caller = Identity(user, Trust.VIP, UserRole.USER, 2**33)
        for _ in range(self.random.choice([1, 1, 3])):  # an impatient client asks again, with the same request
            process = await self._some_process()
            with contextlib.suppress(Lost):
                answer = await self.ask(process, process.calls.start(caller, callee, request_id))
                self.note(f"{user} rings {callee}: {_short(answer)}")

    async def _use_call(self, user: str, action: str) -> None:
        live = self.db.table("live").get(user)
        if live is None:
            return
        call_id = live["call_id"]
        process = await self._some_process()
        calls = process.calls
        if action == "answer":
            steps: Any = [calls.accept(user, call_id, f"tab of {user}")]
            if self.random.random() < 0.3:  # two tabs at once
                steps.append(calls.accept(user, call_id, f"other tab of {user}"))
        else:
            steps = [self.random.choice([calls.end, calls.decline, calls.cancel, calls.join])(user, call_id)]
        answers = await asyncio.gather(*(self.ask(process, step) for step in steps), return_exceptions=True)
        self.note(f"{user} {action}: {[_short(answer) for answer in answers]}")

    async def _buy(self, user: str, key: str) -> None:
        order = Order(self.random.choice([100, 500, 900]), self.random.choices(vendors.CARDS, (6, 2, 2, 2, 1))[0])
        for _ in range(self.random.choice([1, 2, 3])):
            process = await self._some_process()
            try:
                operation = Operation(user, key, 86_400)
                answer = await self.ask(process, process.payments.buy(operation, order))
                self.note(f"{user} buys by {order.payment_method_id}: {_short(answer)}")
                self._check_answer(user, key, answer)
            except Lost:
                self.note(f"{user} buys: lost")
            await asyncio.sleep(self.random.choice([0.0, 0.1, 7.0]))

    async def _provider_tells(self) -> None:
        """An event of the provider's, late, early, or twice at once: what it says of a payment is recorded."""
        named = [row for row in self.db.table("purchases").values() if row["payment_intent_id"]]
        if not named:
            return
        row = self.random.choice(named[-3:])
        payment = self.provider.intents[row["payment_intent_id"]].payment
        deliveries = []
        for _ in range(self.random.choice([1, 2, 2])):
            process = await self._some_process()
            deliveries.append(self.ask(process, process.records.record(row["id"], payment)))
        await asyncio.gather(*deliveries, return_exceptions=True)

    def _provider_moves(self) -> None:
        for payment_id in list(self.provider.intents):
            if self.random.random() < 0.5:
                self.provider.settle(payment_id)
                self.provider.authenticate(payment_id, success=self.random.random() < 0.7)

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def _work_off_jobs(self) -> None:
        minute = 0.0
        while True:
            await asyncio.sleep(JOBS_EVERY_S if not self.resting else 20.0)
            now = self.db.clock()
            due = [job for job in self.db.table("jobs").values() if job["due_at"] <= now]
            for job in sorted(due, key=lambda job: (job["due_at"], job["id"])):
                await self._do(job)
            if self.loop.time() >= minute:
                minute = self.loop.time() + 60.0
                process = await self._some_process()
                with contextlib.suppress(Lost):
                    await self.ask(process, process.recovery.check_due())

    async def _do(self, job: Row) -> None:
        process = await self._some_process()
        handler = {
            "check_purchase": process.recovery.check, "cancel_payment": process.recovery.cancel_payment,
            "put_out": self._put_out,
        }[job["task"]]  # fmt: skip
        try:
            answer = await self._try_job(process, handler(**job["args"]))
        except Lost:
            answer = "lost"
        if answer is None:
            self.db.table("jobs").pop(job["id"])
        else:
            job["due_at"] = self.db.clock() + timedelta(seconds=30.0 if answer == "lost" else 4.0)

    async def _put_out(self, channel: str, uid: int) -> None:
        self.put_out[channel, uid] += 1

    async def _try_job(self, process: Process, work: Awaitable[Any]) -> Any:
        from realtime.adapters.stripe_gateway import ProviderUnavailable

        async def carry_out() -> Any:
            try:
                return await work
            except ProviderUnavailable:
                return "away"

        return await self.ask(process, carry_out())

    # -- rest ----------------------------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """No more faults: who is in a call hangs up, and everything that was left behind is finished."""
        await asyncio.sleep(SLOWEST_S)  # requests that were on their way arrive
        for user in USERS:
            while (live := self.db.table("live").get(user)) is not None and self.failure is None:
                process = await self._some_process()
                await self.ask(process, process.calls.end(user, live["call_id"]))
                await asyncio.sleep(0.5)
        self.resting = True
        over = self.loop.time() + RESTS_FOR_S
        while self.failure is None and self._unfinished():
            for payment_id in list(self.provider.intents):
                self.provider.settle(payment_id)
            if self.loop.time() > over:
                self.fail(Broken(f"never finished: {self._unfinished()}"))
            if not any(process.alive for process in self.processes):
                self._start_process()
            await asyncio.sleep(60.0)

    def _unfinished(self) -> list[Any]:
        pending = [row for row in self.db.table("purchases").values() if row["status"] not in queries.FINISHED]
        return pending + list(self.db.table("jobs").values())

    # -- invariants ----------------------------------------------------------------------------------------------

    def _committed(self, changes: dict[Key, tuple[Row | None, Row | None]]) -> None:
        try:
            for (table, key), (before, after) in changes.items():
                check = getattr(self, f"_check_{table}", None)
                if check is not None:
                    check(key, before, after)
        except AssertionError as error:
            self.fail(error)
            raise

    def _check_accounts(self, _key: int, _before: Row | None, after: Row) -> None:
        _must(after["balance"] >= 0 or after["kind"] not in queries.NEVER_BELOW_ZERO, f"below zero: {after}")

    def check_told(self, user: str, kind: str, version: int, balance: int) -> None:
        if self._stood[user, kind].get(version) != balance:
            self.fail(Broken(f"{user} was told a {kind} of {balance} at version {version}, which never was"))

    def _check_journals(self, key: str, before: Row | None, after: Row) -> None:
        _must(before is None, f"{key} was posted twice")
        sums: dict[bool, int] = defaultdict(int)
        for account_id, amount in after["content"][1]:
            sums[self.db.table("accounts")[account_id]["kind"] in {"stripe_clearing", "token_sales"}] += amount
        _must(not any(sums.values()), f"{key} is not balanced")
        for account_id, (version, balance) in after["left"].items():
            account = self.db.table("accounts")[account_id]
            self._stood[account["owner_id"], account["kind"]][version] = balance

    def _check_calls(self, call_id: UUID, before: Row | None, after: Row) -> None:
        now = self.db.clock()
        if before is not None and before["status"] != after["status"]:
            reached = {t.status for t in transitions.TRANSITIONS[transitions.Status(before["status"])].values()}
            _must(after["status"] in reached, f"{before['status']} to {after['status']}")
        _must(before is None or before["status"] != "ended", f"a call changed after its end: {after}")
        if after["started_at"] is not None:
            billed = after["periods_billed"]
            _must(after["paid_through"] == after["started_at"] + timedelta(seconds=billed * PERIOD_S), "paid time")
            for period in (billed, billed + 1):
                there = f"call:{call_id}:{period}" in self.db.table("journals")
                _must(there == (0 < period <= billed), f"period {period} of {billed} debited: {there}")
            last_began = after["started_at"] + timedelta(seconds=(billed - 1) * PERIOD_S)
            _must(billed == 0 or last_began <= now, f"billed before it began: {after}")
        if after["status"] == "active":
            _must(after["periods_billed"] > 0, "active and not paid")

    def _check_live(self, user: str, _before: Row | None, after: Row | None) -> None:
        call = self.db.table("calls").get(after["call_id"]) if after else None
        _must(call is None or call["status"] != "ended" or after is None, f"{user} is held by a call that has ended")

    def _check_purchases(self, purchase_id: UUID, before: Row | None, after: Row) -> None:
        if before is not None and before["status"] != after["status"]:
            table = purchase_domain.TRANSITIONS[purchase_domain.Status(before["status"])]
            _must(after["status"] in {t.status for t in table.values()}, f"{before['status']} to {after['status']}")
        credited = f"purchase:{purchase_id}" in self.db.table("journals")
        _must(credited == (after["status"] == "succeeded"), f"credited: {credited}, {after['status']}")
        named = before["payment_intent_id"] if before else None
        _must(named in {None, after["payment_intent_id"]}, "another payment was named")

    def _check_spend(self, _key: Any, _before: Row | None, after: Row) -> None:
        _must(after["spent_cents"] >= 0, "less than nothing spent")

    def check_charges(self, purchase_id: UUID) -> None:
        charged = self.provider.charged(purchase_id)
        if sum(one.charges for one in charged) > 1:
            self.fail(Broken(f"charged twice: {charged}"))
        row = self.db.table("purchases").get(purchase_id)
        if charged and row is not None and row["payment_intent_id"] != charged[0].payment.id:
            self.fail(Broken("a payment was charged that is not in its purchase's row"))

    def _check_answer(self, user: str, key: str, answer: Any) -> None:
        """What a buyer is told holds."""
        if isinstance(answer, errors.Refused) or answer.outcome.get("status") != "succeeded":
            return
        row = self.db.table("purchases").get(UUID(answer.outcome["purchaseId"]))
        if row is None or row["status"] != "succeeded" or (row["user_id"], row["idempotency_key"]) != (user, key):
            self.fail(Broken(f"{user} was told of a success that is none"))

    def _check_rest(self) -> None:
        """Everything has come to rest: who owes whom what, to the token and the cent."""
        try:
            self._check_books()
        except AssertionError as error:
            self.fail(error)

    def _check_books(self) -> None:
        wallet = dict(self._begun)
        earned: dict[str, int] = defaultdict(int)
        for call in self.db.table("calls").values():
            _must(call["status"] == "ended", f"never ended: {call}")
            paid, shared = self._owed(call)
            _must(call["tokens_spent"] == paid, f"spent {call['tokens_spent']}, owed {paid}: {call}")
            unpaid = call["end_reason"] in {"insufficient_funds", "failed"}
            put_out = [self.put_out[f"call_{call['id'].hex}", uid] > 0 for uid in (1, 2)]
            _must(put_out == [unpaid, unpaid], f"put out of the channel: {put_out}, {call}")
            wallet[call["caller_id"]] -= paid
            earned[call["callee_id"]] += shared
        charged_keys: set[tuple[str, str]] = set()
        spent: dict[Any, int] = defaultdict(int)
        for purchase in self.db.table("purchases").values():
            charges = sum(one.charges for one in self.provider.charged(purchase["id"]))
            _must(charges == (purchase["status"] == "succeeded"), f"{charges} charges: {purchase}")
            if charges:
                by_key = purchase["user_id"], purchase["idempotency_key"]
                _must(by_key not in charged_keys, f"{by_key} was charged twice")
                charged_keys.add(by_key)
                wallet[purchase["user_id"]] += purchase["tokens"]
                spent[purchase["user_id"], purchase["spend_day"]] += purchase["amount_cents"]
        for day, row in self.db.table("spend").items():
            _must(
                row["spent_cents"] == spent[day], f"{day}: {row['spent_cents']} of the limit held, {spent[day]} spent"
            )
        for account in self.db.table("accounts").values():
            expected = {"wallet": wallet, "earnings": earned}.get(account["kind"])
            if expected is not None:
                _must(account["balance"] == expected[account["owner_id"]], f"{account}, not {expected}")
        _must(not self.db.table("live"), "somebody is held by no call")

    def _owed(self, row: Row) -> tuple[int, int]:
        """What a call costs, and what of it is the callee's, by its times alone."""
        if row["started_at"] is None:
            return 0, 0
        whole, rest = divmod((row["ended_at"] - row["started_at"]).total_seconds(), PERIOD_S)
        unpaid = row["end_reason"] in {"insufficient_funds", "failed"}
        _must(not unpaid or rest == 0, f"an unpaid call ends where it was paid to: {row}")
        periods = int(whole) if unpaid else int(whole) + 1
        _must(row["periods_billed"] == periods, f"{periods} periods began: {row}")
        fee = RATE * self.settings.platform_fee_percent // 100
        back = (0, 0)
        if row["refund_unused_seconds"] and not unpaid and periods:
            unused = call_domain.pricing.unused(RATE, self.settings.platform_fee_percent, PERIOD_S, rest)
            back = unused.tokens, unused.from_earnings_tokens
        return periods * RATE - back[0], periods * (RATE - fee) - back[1]


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def _short(answer: Any) -> str:
    if isinstance(answer, errors.Refused):
        return answer.code
    if isinstance(answer, BaseException):
        return type(answer).__name__
    call = getattr(answer, "call", answer)
    return str(getattr(call, "status", None) or getattr(answer, "outcome", answer))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What the services log is not read here, and there is a lot of it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def run(seed: int, loop: VirtualLoop) -> History:
    """One history. Raises Broken; its trace is in `History.trace`."""
    history = History(seed)
    history.run(loop)
    return history
