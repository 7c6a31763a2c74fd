"""Redis restarted, frozen, emptied and full under calls that go on: no debit waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from tests.faults.crowd import Crowd, Person
from tests.faults.readiness import Readiness
from tests.faults.world import LASTS_S, METER_WITHIN_S, World
from tests.servers import eventually


async def can_be_rung(world: World, crowd: Crowd) -> None:
    """Wait until callees on either instance can be found from either: whoever rings one who talks is told `busy`."""
    ringing = await world.crowd(size=4)
    on_one, on_other = ringing.pairs[0].caller, ringing.pairs[2].caller
    for caller in (on_one, on_other):
        for pair in crowd.pairs[:4]:

            async def found(caller: Person = caller, callee: str = pair.callee.user) -> bool:
                answer = await caller.ask("call:start", {"calleeId": callee, "requestId": callee})
                return bool(answer["error"]["code"] == "busy")

            await eventually(found)
    await ringing.leave()


async def test_redis_dies_and_comes_back_empty_and_no_debit_is_late(world: World, saw: Callable[..., None]) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken("redis", partial(asyncio.to_thread, world.redis.kill)):
            await world.periods(crowd, 2)
        await asyncio.to_thread(world.redis.start)
        back = time.monotonic()
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        await can_be_rung(world, crowd)
        readiness.assert_truth(settled)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("Redis restarted", books, recovery_s=settled - back)


async def test_redis_hangs_and_no_debit_is_late(world: World, saw: Callable[..., None]) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken("redis", partial(asyncio.to_thread, world.redis.pause)):
            await asyncio.sleep(LASTS_S)
        world.redis.resume()
        back = time.monotonic()
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        await can_be_rung(world, crowd)
        readiness.assert_truth(settled)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw(f"Redis paused {LASTS_S:.0f} s", books, recovery_s=settled - back)


async def test_redis_forgets_everything_and_fills_itself_again(world: World, saw: Callable[..., None]) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    async with Readiness(world.servers).watching() as readiness:
        await asyncio.to_thread(world.redis.forget)
        back = time.monotonic()
        await can_be_rung(world, crowd)
        recovered = time.monotonic()
        await world.periods(crowd, 1)
        readiness.assert_truth(back)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("Redis flushed", books, recovery_s=recovered - back)


async def test_redis_is_full_and_calls_go_on_while_newcomers_are_told_of_where_they_are(
    world: World, saw: Callable[..., None]
) -> None:
    """It answers and takes nothing new: the tab of a newcomer is known to its own instance only, which says so."""
    crowd = await world.crowd()
    await crowd.talk()
    newcomers: list[Crowd] = []

    async def fill() -> None:
        await asyncio.to_thread(world.redis.fill)
        newcomers.append(await world.crowd(size=4))

    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken("redis", fill, at_once=False):
            await world.periods(crowd, 2)
        await asyncio.to_thread(world.redis.empty)
        back = time.monotonic()
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        await newcomers[0].talk()
        readiness.assert_truth(settled)
    await world.settle(newcomers[0])
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("Redis full", books, recovery_s=settled - back)
