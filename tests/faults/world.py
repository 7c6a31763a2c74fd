"""A deployment to do harm to: PostgreSQL, Redis, two instances, and a line from each instance to each server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psycopg

from ledger.database_url import DatabaseUrl
from tests.faults.books import Books, audit, nothing_overdue
from tests.faults.crowd import Crowd, Pair, gather_crowd
from tests.faults.lines import Line, Lines
from tests.faults.machines import PostgreSQL, Redis
from tests.faults.readiness import Readiness
from tests.servers import Launch, Server, eventually

CALLS = int(os.environ.get("FAULT_CALLS", "12"))
"""Calls in flight through each fault."""
LASTS_S = float(os.environ.get("FAULT_SECONDS", "2"))
"""How long servers hang, beside what it takes until everybody has noticed."""
TOKENS = 100_000
METER_WITHIN_S = 5.0
"""The contract's time within which a call is metered again."""

SETTINGS = {
    "BILLING_PERIOD_SECONDS": 1,
    "CALL_GRACE_SECONDS": 90,
    "RECONNECT_GRACE_SECONDS": 6,
    "DATABASE_POOL_SIZE": 6,
    "RATE_LIMIT_TRUST_LEVELS": '{"basic":10000}',  # callees are rung until they are found
}


@dataclass
class Instance:
    """One of ours, and its lines."""

    server: Server
    to_postgresql: Line
    to_redis: Line
    settings: dict[str, Any]


@dataclass
class World:
    postgresql: PostgreSQL
    redis: Redis
    lines: Lines
    start: Launch
    database: str = "callmeter"
    instances: list[Instance] = field(default_factory=list)

    @property
    def database_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.postgresql.port}/{self.database}"

    @property
    def servers(self) -> list[Server]:
        return [instance.server for instance in self.instances]

    @contextlib.asynccontextmanager
    async def sql(self) -> AsyncIterator[Any]:
        conn = await asyncpg.connect(**DatabaseUrl.parse(self.database_url).for_asyncpg())
        try:
            yield conn
        finally:
            await conn.close()

    # -- instances -----------------------------------------------------------------------------------------------

    def add(self, **settings: Any) -> Instance:
        """Start one more instance."""
        to_postgresql, to_redis = self.lines.to(self.postgresql.port), self.lines.to(self.redis.port)
        instance = Instance(self._start(to_postgresql, to_redis, settings), to_postgresql, to_redis, settings)
        self.instances.append(instance)
        return instance

    async def restart_and_wait(self, instance: Instance, **settings: Any) -> None:
        """`restart`, and until it serves."""
        self.restart(instance, **settings)
        await asyncio.to_thread(instance.server.wait_for, '"event": "serving"')

    def restart(self, instance: Instance, **settings: Any) -> None:
        """Start it again where it died or was stopped, perhaps with other settings."""
        instance.settings = instance.settings | settings
        instance.server = self._start(instance.to_postgresql, instance.to_redis, instance.settings)

    def _start(self, to_postgresql: Line, to_redis: Line, settings: dict[str, Any]) -> Server:
        return self.start(
            "web",
            wait=False,
            DATABASE_URL=f"postgresql://postgres@127.0.0.1:{to_postgresql.port}/{self.database}",
            REDIS_URL=f"redis://127.0.0.1:{to_redis.port}",
            **(SETTINGS | settings),
        )

    async def whole(self) -> None:
        """Mend whatever a test before has left broken, and wait until everybody says that they are ready."""
        for instance in self.instances:
            instance.to_postgresql.mend()
            instance.to_redis.mend()
            if instance.server.process.poll() is not None:
                self.restart(instance)
        for instance in self.instances:
            await asyncio.to_thread(instance.server.wait_for, '"event": "serving"')
        async with Readiness(self.servers).watching() as readiness:
            await eventually(readiness.all_ready)

    # -- a fault -------------------------------------------------------------------------------------------------

    async def crowd(self, seats: str = "everywhere", size: int = CALLS) -> Crowd:
        """People with tokens and tabs: `everywhere`, or callers and callees on the instances with these numbers."""
        a, b = self.servers[0], self.servers[-1]
        places = {"everywhere": [(a, a), (a, b), (b, a), (b, b)]}.get(seats) or [
            (self.servers[int(seats[0])], self.servers[int(seats[1])])
        ]
        async with self.sql() as conn:
            return await gather_crowd(conn, size, places, TOKENS)

    async def metered_again(self, crowd: Crowd) -> float:
        """Wait until every call is paid up to now; answers how long that took."""
        began = time.monotonic()
        async with self.sql() as conn:
            await eventually(lambda: nothing_overdue(conn, crowd))
        return time.monotonic() - began

    async def periods(self, crowd: Crowd, more: int) -> None:
        """Wait until each call has been billed `more` periods more, or has ended."""
        async with self.sql() as conn:
            seen = dict(await conn.fetch("SELECT id, periods_billed FROM calls WHERE id = ANY($1)", crowd.call_ids))

            async def billed() -> bool:
                rows = await conn.fetch(
                    "SELECT id, status::text, periods_billed FROM calls WHERE id = ANY($1)", crowd.call_ids
                )
                return all(row["status"] == "ended" or row["periods_billed"] >= seen[row["id"]] + more for row in rows)

            await eventually(billed)

    async def billed_somewhat(self, crowd: Crowd, periods: int) -> None:
        """Wait until some call has been billed this many periods: so much time has gone by."""
        async with self.sql() as conn:

            async def billed() -> bool:
                most = await conn.fetchval("SELECT max(periods_billed) FROM calls WHERE id = ANY($1)", crowd.call_ids)
                return bool(most >= periods)

            await eventually(billed)

    async def ended(self, crowd: Crowd) -> None:
        """Wait until all calls have ended by themselves."""
        async with self.sql() as conn:

            async def none_lives() -> bool:
                live = await conn.fetchval("SELECT count(*) FROM live_parties WHERE call_id = ANY($1)", crowd.call_ids)
                return bool(live == 0)

            await eventually(none_lives, 60)

    async def settle(self, crowd: Crowd) -> Books:
        """Everybody who is still talking hangs up; then the books are read."""
        await crowd.each(Pair.hang_up)
        async with self.sql() as conn:
            books = await audit(conn, self.database_url, crowd)
        await crowd.leave()
        return books


def make_database(world: World, migrate: Callable[[str], None]) -> None:
    with psycopg.connect(world.postgresql.url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {world.database}")
    migrate(world.database_url)
