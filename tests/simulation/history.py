"""One history: people who ring each other, talk, buy and are paid back, on processes that die, over links that break.

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
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar
from unittest import mock
from uuid import UUID

import asyncpg
import structlog

from ledger import store
from ledger.journals import Journal, Leg, TransactionType
from realtime.adapters.stripe_gateway import ProviderUnavailable
from realtime.domain import errors
from realtime.edge.errors import as_refused
from tests.simulation import queries
from tests.simulation.books import Books
from tests.simulation.clock import VirtualLoop
from tests.simulation.courier import Courier
from tests.simulation.database import IDLE_IN_TRANSACTION_S, Connection, Database, NoFaults, Row, Transactions
from tests.simulation.people import People
from tests.simulation.process import QUERIES, Process
from tests.simulation.provider import Provider
from tests.simulation.queries.rows import FINISHED
from tests.simulation.rules import (
    BREAK,
    JOBS_COME_AFTER_S,
    JOBS_EVERY_S,
    KILL,
    LASTS_S,
    PROCESSES,
    RESTS_FOR_S,
    SETTINGS,
    SLOW,
    SLOWEST_S,
    USERS,
    Broken,
    Lost,
)

T = TypeVar("T")


class History:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.failure: BaseException | None = None
        self.faulty = True
        self.resting = False
        self.settings = SETTINGS[self.random.choice(["period", "second"])]
        self.books = Books(self)
        [self.webhook_secret] = self.settings.stripe_webhook_secret
        self.db = Database(self.books.committed)
        self.provider = Provider(self)
        self.processes: list[Process] = []
        self.steps = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self.put_out: Counter[tuple[str, int]] = Counter()
        self.loop: asyncio.AbstractEventLoop

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Broken, naming what did not hold. Time begins at zero, so that it is the same amid others as alone."""
        with contextlib.closing(VirtualLoop()) as loop, self._seeded():
            self.loop = loop
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
        """Ids are of the seed as well, since rows are locked in their order. Jobs come while there are faults yet."""
        with contextlib.ExitStack() as stack:
            for name in ("calls.new_id", "payments.new_id", "idempotency.uuid4"):
                stack.enter_context(mock.patch(f"realtime.services.{name}", self._new_id))
            for name, pause_s in JOBS_COME_AFTER_S.items():
                stack.enter_context(mock.patch(f"realtime.services.{name}", pause_s))
            yield

    def _new_id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128))

    async def _run(self) -> None:
        queries.ledger.make_platform_accounts(self.db)
        async with Transactions(self.db, QUERIES, NoFaults()).begin() as conn:
            granted: Any = conn
            for user in USERS:
                await self._grant(granted, user, self.random.choice([0, 15, 35, 60, 200]))
        for _ in range(PROCESSES):
            self._start_process()
        people = People(self)
        busy = [self.spawn(people.live(user)) for user in USERS] + [self.spawn(people.take_back())]
        self.spawn(self._operate())
        last = [self.spawn(self._work_off_jobs()), self.spawn(Courier(self).deliver())]
        await asyncio.sleep(LASTS_S)
        self.faulty = False
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        if self.failure is None:
            await self._come_to_rest()
        for task in last:
            task.cancel()
        if self.failure is None:
            self.books.check_rest()

    async def _grant(self, conn: Any, user: str, tokens: int) -> None:
        [wallet] = await store.ensure_accounts(conn, [(user, "wallet")])
        granted = await store.platform_account(conn, "granted_tokens")
        self.books.begun[user] = tokens
        if tokens:
            legs = (Leg(granted, tokens), Leg(wallet, -tokens))
            await store.post(conn, [Journal(f"grant:{user}", TransactionType.GRANT, legs)], actor="root")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self._tasks.append(task)
        return task

    def note(self, line: str) -> None:
        self.trace.append(f"{self.loop.time():8.2f}  {line}")

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

    async def some_process(self) -> Process:
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
                minute = self.loop.time() + (60.0 if not self.resting else 300.0)
                process = await self.some_process()
                with contextlib.suppress(Lost):
                    await self.ask(process, process.recovery.check_due())
                    await self.ask(process, process.refunds.check_due())
                    await self.ask(process, process.events.apply_pending())

    async def _do(self, job: Row) -> None:
        process = await self.some_process()
        handler = {
            "check_purchase": process.recovery.check, "cancel_payment": process.recovery.cancel_payment,
            "check_refund": process.refunds.check, "apply_stripe_event": process.events.apply_kept,
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
                process = await self.some_process()
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
        rows = self.db.table
        return [
            *(row for row in rows("purchases").values() if row["status"] not in FINISHED),
            *(row for row in rows("refund_orders").values() if row["status"] == "claimed"),
            *(row for row in rows("events").values() if row["applied_at"] is None),
            *(event for event in self.provider.events if not event.delivered),
            *rows("jobs").values(),
        ]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What the services log is not read here, and there is a lot of it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
