"""Instances killed as by `kill -9`, or frozen, in each phase of many calls."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from tests.faults.crowd import Crowd, Pair
from tests.faults.readiness import Readiness
from tests.faults.world import METER_WITHIN_S, World


async def recovered(world: World, crowd: Crowd) -> float:
    """Wait until every call that is going on has been billed for two more periods; how long the meter was behind."""
    behind_s = await world.metered_again(crowd)
    await world.periods(crowd, 2)
    return behind_s


async def test_killed_while_calls_are_started_each_request_makes_one_call(
    world: World, saw: Callable[..., None]
) -> None:
    dying, living = world.servers
    crowd = await world.crowd("01")
    cut_short = await crowd.through(Pair.ring, dying.kill)
    struck = time.monotonic()
    assert cut_short, "the kill came in the middle"
    await crowd.come_back([living])
    await crowd.each(Pair.ring)
    async with world.sql() as conn:
        made = await conn.fetchval(
            "SELECT count(*) FROM calls WHERE caller_id = ANY($1)", [pair.caller.user for pair in crowd.pairs]
        )
    assert made == len(crowd.pairs)
    recovery_s = time.monotonic() - struck
    await crowd.each(Pair.answer)
    await recovered(world, crowd)
    saw("web killed, ringing", await world.settle(crowd), recovery_s=recovery_s)


async def test_killed_while_calls_are_answered_each_first_period_is_paid_once(
    world: World, saw: Callable[..., None]
) -> None:
    living, dying = world.servers
    crowd = await world.crowd("01")
    await crowd.each(Pair.ring)
    cut_short = await crowd.through(Pair.answer, dying.kill)
    struck = time.monotonic()
    assert cut_short, "the kill came in the middle"
    await crowd.come_back([living])
    await crowd.each(Pair.answer)
    recovery_s = time.monotonic() - struck
    await recovered(world, crowd)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    saw("web killed, answering", books, recovery_s=recovery_s)


async def test_killed_in_the_middle_of_periods_the_next_debits_come_within_the_contracts_five_seconds(
    world: World, saw: Callable[..., None]
) -> None:
    dying, living = world.servers
    crowd = await world.crowd("00")
    await crowd.talk()
    await world.periods(crowd, 1)
    async with Readiness([living]).watching() as readiness:
        dying.kill()
        struck = time.monotonic()
        await recovered(world, crowd)
        recovery_s = time.monotonic() - struck
        readiness.assert_truth(struck)
    await crowd.come_back([living])
    await crowd.each(Pair.join)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("web killed, talking", books, recovery_s=recovery_s)


async def test_killed_while_calls_end_each_ends_once_and_stays_ended(world: World, saw: Callable[..., None]) -> None:
    dying, living = world.servers
    crowd = await world.crowd("01")
    await crowd.talk()
    await world.periods(crowd, 1)
    cut_short = await crowd.through(Pair.hang_up, dying.kill)
    struck = time.monotonic()
    assert cut_short, "the kill came in the middle"
    await crowd.come_back([living])
    books = await world.settle(crowd)
    saw("web killed, ending", books, recovery_s=time.monotonic() - struck)


async def test_frozen_in_the_middle_of_its_work_it_holds_nobody_up_for_longer_than_five_seconds(
    world: World, saw: Callable[..., None]
) -> None:
    """A process that hangs may hold rows of calls in a transaction: PostgreSQL takes them from it."""
    frozen, living = world.servers
    crowd = await world.crowd("10")
    await crowd.each(Pair.ring)
    answering = asyncio.create_task(crowd.through(Pair.answer, lambda: frozen.process.send_signal(signal.SIGSTOP)))
    try:
        await world.billed_somewhat(crowd, int(METER_WITHIN_S) + 1)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    await answering
    recovery_s = await world.metered_again(crowd)
    await crowd.come_back([living])
    await crowd.each(Pair.answer)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    saw("web frozen, answering", books, recovery_s=recovery_s)


async def test_calls_whose_two_people_never_come_back_end_and_cost_what_had_begun(
    world: World, saw: Callable[..., None]
) -> None:
    dying, _ = world.servers
    crowd = await world.crowd("00")
    await crowd.talk()
    dying.kill()
    struck = time.monotonic()

    await world.ended(crowd)
    recovery_s = time.monotonic() - struck
    await crowd.come_back([world.servers[1]])
    books = await world.settle(crowd)
    assert books.reasons == {"disconnected": len(crowd.pairs)}
    saw("web killed, nobody returns", books, recovery_s=recovery_s)
