"""Clocks that are wrong, and clocks that step. The database's is the one that counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from tests.agora_tokens import describe
from tests.faults.crowd import gather_crowd
from tests.faults.world import CALLS, SETTINGS, TOKENS, World

HOURS_S = 2 * 3600


async def test_instances_hours_ahead_and_behind_bill_what_the_databases_clock_says(
    world: World, saw: Callable[..., None]
) -> None:
    ahead, behind = (
        world.start(
            module="tests.faults.skewed", wait=False, CLOCK_OFFSET_S=offset_s, DATABASE_URL=world.database_url,
            REDIS_URL=world.redis.url, **SETTINGS,
        )
        for offset_s in (HOURS_S, -HOURS_S)
    )  # fmt: skip
    for instance in world.instances:
        await asyncio.to_thread(instance.server.kill)  # none but the wrong ones meter
    for server in (ahead, behind):
        await asyncio.to_thread(server.wait_for, '"event": "serving"')
    async with world.sql() as conn:
        crowd = await gather_crowd(
            conn, CALLS, [(ahead, behind), (behind, ahead)], TOKENS, exp=int(time.time()) + 2 * HOURS_S
        )
    await crowd.talk()
    await world.periods(crowd, 3)
    books = await world.settle(crowd)
    assert books.reasons == {"hangup": len(crowd.pairs)}
    renewals = [push for person in crowd.people for push in person.phone.told("call:token")]
    assert renewals
    for push in renewals:
        expires_at = datetime.fromisoformat(push["agora"]["expiresAt"])
        assert describe(push["agora"]["token"]).expires_at == int(expires_at.timestamp())
    for server in (ahead, behind):
        server.kill()
    saw("instances' clocks off by 2 h", books, recovery_s=0.0)


@contextlib.asynccontextmanager
async def steerable_clock(world: World) -> AsyncIterator[Any]:
    """The database's clock, and a way to step it: `await step(-3)`."""
    async with world.sql() as conn:
        await conn.execute("CREATE TABLE clock_offset (seconds float8 NOT NULL); INSERT INTO clock_offset VALUES (0)")
        await conn.execute(
            "CREATE OR REPLACE FUNCTION meter_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
            " 'SELECT clock_timestamp() + seconds * interval ''1 second'' FROM clock_offset'"
        )

        async def step(seconds: float) -> None:
            await conn.execute("UPDATE clock_offset SET seconds = seconds + $1", seconds)

        try:
            yield step
        finally:
            await conn.execute(
                "CREATE OR REPLACE FUNCTION meter_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
                " 'SELECT clock_timestamp()'; DROP TABLE clock_offset"
            )


async def test_the_databases_clock_steps_back_and_ahead_and_no_period_is_billed_twice(
    world: World, saw: Callable[..., None]
) -> None:
    async with steerable_clock(world) as step:
        crowd = await world.crowd()
        await crowd.talk()
        await world.periods(crowd, 1)
        for seconds in (-2, 3, -1):
            await step(seconds)
            await world.periods(crowd, 1)
        books = await world.settle(crowd)
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("database's clock steps", books, recovery_s=0.0, runs=3)


async def test_the_databases_clock_leaps_over_the_grace_and_nobody_is_billed_for_the_leap(
    world: World, saw: Callable[..., None]
) -> None:
    async with steerable_clock(world) as step:
        crowd = await world.crowd()
        await crowd.talk()
        await step(int(SETTINGS["CALL_GRACE_SECONDS"]) + 10)
        await world.ended(crowd)
        books = await world.settle(crowd)
    assert books.reasons == {"failed": len(crowd.pairs)}
    saw("database's clock leaps", books, recovery_s=0.0)
