"""The operator's view: one overview of all instances, and this process's measurements of what it depends on.

Each process says in Redis how many tabs it has; what calls, the meter and the ledger are doing is asked of PostgreSQL,
which knows it for all of them. Nothing here is needed for a call to go on: what cannot be asked is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import structlog
from redis.exceptions import RedisError

from realtime.adapters import operations_store
from realtime.adapters.metrics import Metrics
from realtime.adapters.operations_store import InstanceBoard, InstanceStatus, KindBalance
from realtime.adapters.postgres import UNREACHABLE
from realtime.adapters.presence import Presence
from realtime.services.calls import Transactions
from realtime.services.pushes import iso

log = structlog.get_logger()

OVERVIEW_EVERY_S = 2.0
SAMPLE_EVERY_S = 5.0
DEBITS_OVER_S = 5
TRIAL_BALANCE_FRESH_S = 10.0
"""Summing every account takes longer the more there are; the other questions are answered from indexes."""


class LastHour:
    """How many there were in the last sixty minutes, by whole minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: deque[tuple[int, int]] = deque()

    def add(self) -> None:
        minute = int(self._clock() // 60)
        if self._minutes and self._minutes[-1][0] == minute:
            self._minutes[-1] = (minute, self._minutes[-1][1] + 1)
        else:
            self._minutes.append((minute, 1))
        self._forget(minute)

    def count(self) -> int:
        self._forget(int(self._clock() // 60))
        return sum(number for _, number in self._minutes)

    def _forget(self, minute: int) -> None:
        while self._minutes and self._minutes[0][0] <= minute - 60:
            self._minutes.popleft()


class Operations:
    def __init__(
        self,
        *,
        db: Transactions,
        pool: Any,
        redis: Any,
        presence: Presence,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._pool = pool
        self._redis = redis
        self._presence = presence
        self._metrics = metrics
        self._csp_reports = LastHour()
        self._board = InstanceBoard(redis)
        self._readings: list[Callable[[], None]] = []
        self._trial_balance: list[KindBalance] = []
        self._trial_balance_at = float("-inf")
        self._stopping = asyncio.Event()

    def csp_report(self, directive: str, disposition: str) -> None:
        """A browser has reported a violation of a page's policy."""
        self._metrics.csp_report(directive, disposition)
        self._csp_reports.add()

    # -- the overview --------------------------------------------------------------------------------------------

    async def overview(self) -> dict[str, Any]:
        """How everything stands. Raises what PostgreSQL or Redis raise when they cannot be asked."""
        instances = await self._board.hear()
        async with self._db.connection() as conn:
            calls = await operations_store.live_calls(conn)
            due_lag_s = await operations_store.due_lag_s(conn)
            debits = await operations_store.recent_debits(conn, DEBITS_OVER_S)
            purchases = await operations_store.pending_purchases(conn)
            jobs = await operations_store.jobs(conn)
            balances = await self._balances(conn)
        return {
            "at": iso(datetime.now(UTC)),
            "instances": [{"id": one.id, "tabs": one.tabs, "users": one.users} for one in instances],
            "calls": calls,
            "meter": {"debitsPerSecond": debits / DEBITS_OVER_S, "dueLagSeconds": round(due_lag_s, 3)},
            "trialBalance": [asdict(one) for one in balances],
            "purchases": {"pending": purchases},
            "jobs": {"failed": jobs.get("failed", 0)},
            "cspReports": {"lastHour": sum(one.csp_reports_last_hour for one in instances)},
        }

    async def _balances(self, conn: Any) -> list[KindBalance]:
        if time.monotonic() - self._trial_balance_at > TRIAL_BALANCE_FRESH_S:
            self._trial_balance = await operations_store.trial_balance(conn)
            self._trial_balance_at = time.monotonic()
        return self._trial_balance

    # -- the measurements ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Say how this process is, and measure what it depends on, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every(OVERVIEW_EVERY_S, self.say))
            tasks.create_task(self._every(SAMPLE_EVERY_S, self.sample))
        with suppress(RedisError):
            await self._board.withdraw(self._presence.instance_id)

    def stop(self) -> None:
        self._stopping.set()

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            try:
                await step()
            except Exception:
                log.exception("measuring failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def say(self) -> None:
        status = InstanceStatus(
            id=self._presence.instance_id,
            tabs=self._presence.local_tabs,
            users=self._presence.local_users,
            csp_reports_last_hour=self._csp_reports.count(),
        )
        with suppress(RedisError):
            await self._board.say(status)

    async def sample(self) -> None:
        """Read every gauge anew. What cannot be asked keeps its last value, and `dependency_up` says so."""
        self.sample_process()
        await asyncio.gather(self._sample_redis(), self._sample_postgres())

    def read_also(self, reading: Callable[[], None]) -> None:
        """Somebody else's statistics, to be read into the metrics with this process's own."""
        self._readings.append(reading)

    def sample_process(self) -> None:
        """Read what needs nobody else's answer."""
        for reading in self._readings:
            reading()
        metrics, pool = self._metrics, self._pool
        metrics.tabs.set(self._presence.local_tabs)
        metrics.users.set(self._presence.local_users)
        metrics.tasks.set(len(asyncio.all_tasks()))
        idle = pool.get_idle_size()
        metrics.pool_connections.labels("idle").set(idle)
        metrics.pool_connections.labels("in_use").set(pool.get_size() - idle)
        metrics.pool_limit.set(pool.get_max_size())

    async def _sample_redis(self) -> None:
        metrics = self._metrics
        try:
            started = time.perf_counter()
            await self._redis.ping()
            metrics.redis_seconds.observe(time.perf_counter() - started)
        except (RedisError, OSError, TimeoutError):
            metrics.up.labels("redis").set(0)
            return
        with suppress(RedisError, OSError, TimeoutError):  # a hosted Redis may not let itself be asked
            metrics.redis_info(await self._redis.info())
        metrics.up.labels("redis").set(1)  # the last: who reads that it is up reads its figures too

    async def _sample_postgres(self) -> None:
        metrics = self._metrics
        try:
            async with self._db.connection() as conn:
                live_calls = await operations_store.live_calls(conn)
                due_lag_s = await operations_store.due_lag_s(conn)
                pending_purchases = await operations_store.pending_purchases(conn)
                jobs = await operations_store.jobs(conn)
        except UNREACHABLE:
            metrics.up.labels("postgresql").set(0)
            return
        # Told at once: a scrape between two questions would see calls and not how long they have been due.
        metrics.up.labels("postgresql").set(1)
        for status, count in live_calls.items():
            metrics.live_calls.labels(status).set(count)
        metrics.due_lag_seconds.set(due_lag_s)
        metrics.pending_purchases.set(pending_purchases)
        for status in ("todo", "doing", "failed"):
            metrics.jobs.labels(status).set(jobs.get(status, 0))
