"""The network between one instance and its servers: cut, silent and slow, while the other instance has none of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.faults.crowd import Pair
from tests.faults.readiness import Readiness
from tests.faults.world import METER_WITHIN_S, SETTINGS, World
from tests.servers import eventually


@pytest.mark.parametrize("how", ["cut", "hold"])
async def test_an_instance_without_postgresql_says_so_and_the_other_meters_its_calls(
    world: World, saw: Callable[..., None], how: str
) -> None:
    """Answers are on their way as it strikes, so that transactions hang with calls in their hands."""
    alone = world.instances[0]
    crowd = await world.crowd("10")
    await crowd.each(Pair.ring)
    answering: list[asyncio.Task[int]] = []

    async def strike() -> None:
        struck = asyncio.Event()

        def fault() -> None:
            getattr(alone.to_postgresql, how)()
            struck.set()

        answering.append(asyncio.create_task(crowd.through(Pair.answer, fault)))
        await struck.wait()

    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken("postgresql", strike, instances=[alone.server], at_once=False):
            await world.billed_somewhat(crowd, int(METER_WITHIN_S) + 1)
        await asyncio.to_thread(alone.to_postgresql.mend)
        back = time.monotonic()
        await asyncio.gather(*answering)
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        readiness.assert_truth(settled)
    await crowd.each(Pair.answer)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    saw(f"PostgreSQL {'cut off' if how == 'cut' else 'silent'} for one", books, recovery_s=settled - back)


async def test_an_instance_cut_off_from_redis_for_longer_than_the_grace_keeps_its_tabs_calls(
    world: World, saw: Callable[..., None]
) -> None:
    """Redis tells the other instance that nobody is there any more. Whoever has a tab here is there."""
    alone = world.instances[0]
    crowd = await world.crowd("00")
    mixed = await world.crowd("01")
    await crowd.talk()
    await mixed.talk()
    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken("redis", partial(asyncio.to_thread, alone.to_redis.cut), instances=[alone.server]):
            await world.periods(crowd, int(SETTINGS["RECONNECT_GRACE_SECONDS"]) + 7)
        await asyncio.to_thread(alone.to_redis.mend)
        back = time.monotonic()
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        readiness.assert_truth(settled)
    for talking in (crowd, mixed):
        books = await world.settle(talking)
        assert books.latest_debit_s <= METER_WITHIN_S
        assert books.reasons == {"hangup": len(talking.pairs)}
    saw("Redis cut off for one", books, recovery_s=settled - back)


async def test_lines_that_take_their_time_cost_nobody_anything(world: World, saw: Callable[..., None]) -> None:
    for instance in world.instances:
        instance.to_postgresql.slow(0.03)
        instance.to_redis.slow(0.03)
    crowd = await world.crowd()
    await crowd.talk()
    await world.periods(crowd, 2)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("lines slow by 60 ms", books, recovery_s=0.0)
