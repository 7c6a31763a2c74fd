"""PostgreSQL restarted, crashed, frozen, and out of connections under calls that go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial

import psycopg
import pytest

from tests.faults.machines import MOST_CONNECTIONS
from tests.faults.readiness import Readiness
from tests.faults.world import LASTS_S, METER_WITHIN_S, World
from tests.servers import eventually


@pytest.mark.parametrize("how", ["restarted", "crashed"])
async def test_postgresql_restarts_and_every_period_is_billed_once(
    world: World, saw: Callable[..., None], how: str
) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken(
            "postgresql", partial(asyncio.to_thread, world.postgresql.stop, crash=how == "crashed")
        ):
            pass
        await asyncio.to_thread(world.postgresql.start)
        back = time.monotonic()
        assert await world.metered_again(crowd) <= METER_WITHIN_S
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        await world.periods(crowd, 1)
        readiness.assert_truth(settled)
    books = await world.settle(crowd)
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw(f"PostgreSQL {how}", books, recovery_s=settled - back)


async def test_postgresql_hangs_and_what_was_used_meanwhile_is_billed_once(
    world: World, saw: Callable[..., None]
) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    async with Readiness(world.servers).watching() as readiness:
        async with readiness.broken("postgresql", partial(asyncio.to_thread, world.postgresql.pause)):
            await asyncio.sleep(LASTS_S)
        world.postgresql.resume()
        back = time.monotonic()
        behind_s = await world.metered_again(crowd)
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        readiness.assert_truth(settled)
    assert behind_s <= METER_WITHIN_S
    books = await world.settle(crowd)
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw(f"PostgreSQL paused {LASTS_S:.0f} s", books, recovery_s=settled - back)


class EveryConnection:
    """Somebody who takes every connection PostgreSQL has, those of our instances too."""

    def __init__(self, world: World) -> None:
        self._url, self._database = world.postgresql.url, world.database
        self._held: list[psycopg.Connection] = []

    def take(self) -> None:
        """Until all are held: one of ours that is still starting or ending is in no list, and leaves a place later."""
        while len(self._held) < MOST_CONNECTIONS:
            with contextlib.suppress(psycopg.OperationalError):
                while len(self._held) < MOST_CONNECTIONS:
                    self._held.append(psycopg.connect(self._url, autocommit=True))
            self._held[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self._database]
            )

    def give_back(self) -> None:
        for conn in self._held:
            conn.close()


async def test_postgresql_has_no_connection_left_and_calls_go_on_when_it_has(
    world: World, saw: Callable[..., None]
) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    async with Readiness(world.servers).watching() as readiness:
        connections = EveryConnection(world)
        try:
            async with readiness.broken("postgresql", partial(asyncio.to_thread, connections.take)):
                refused = await crowd.pairs[0].caller.ask("call:renew", {"callId": crowd.pairs[0].call_id})
                assert not refused["ok"], refused
                assert refused["error"]["code"] == "unavailable"
        finally:
            connections.give_back()
        back = time.monotonic()
        assert await world.metered_again(crowd) <= METER_WITHIN_S
        await eventually(readiness.all_ready)
        settled = time.monotonic()
        readiness.assert_truth(settled)
    books = await world.settle(crowd)
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("PostgreSQL out of connections", books, recovery_s=settled - back)
