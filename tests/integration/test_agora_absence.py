"""What a call costs one side of which never came into its channel, or left it without telling, by the setting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from realtime import config
from realtime.adapters import calls_store
from realtime.adapters.postgres import open_pool
from realtime.adapters.transactions import Database
from realtime.domain.agora_presence import LeaveReason, UserEvent
from realtime.domain.call import AGORA_UID, Call, Role
from realtime.domain.transitions import EndReason, Status
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.services.agora_events import AgoraEvents
from realtime.services.calls import Calls
from tests.integration.test_histories import Everybody
from tests.metering import ISSUER, Heard, grant, set_clock

START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
GRACE_S, PERIOD_S, RATE = 15, 60, 60


@dataclass
class World:
    pool: Any
    calls: Calls
    events: AgoraEvents

    async def answered(self) -> Call:
        """ann, who has 600 tokens, has rung bob, who has answered."""
        await self.clock(0)
        async with self.pool.acquire() as conn:
            await grant(conn, "ann", 600)
        call = await self.calls.start(Identity("ann", Trust.VIP, UserRole.USER, 2**33), "bob", "r")
        return (await self.calls.accept("bob", call.id, "tab")).call

    async def clock(self, at_s: int) -> None:
        async with self.pool.acquire() as conn:
            await set_clock(conn, START + timedelta(seconds=at_s))

    async def says(self, call: Call, role: Role, seq: int, left: LeaveReason | None = None) -> str:
        at = int(START.timestamp())
        return await self.events.receive(UserEvent(call.channel, AGORA_UID[role], seq, left is None, at, left))

    async def do_jobs(self) -> int:
        """Everything that was to be looked after, as if its time had come."""
        async with self.pool.acquire() as conn:
            jobs = await conn.fetch(
                "DELETE FROM procrastinate_jobs RETURNING task_name, args, scheduled_at - now() AS in_"
            )
        for job in jobs:
            assert timedelta(seconds=GRACE_S - 5) < job["in_"] <= timedelta(seconds=GRACE_S)
            await getattr(self.events, job["task_name"])(**job["args"])
        return len(jobs)

    async def call(self, call: Call) -> Call:
        async with self.pool.acquire() as conn:
            found = await calls_store.get(conn, call.id)
        assert found is not None
        return found

    async def balances(self) -> dict[str, int]:
        async with self.pool.acquire() as conn:
            rows = await conn.fetch("SELECT kind, balance FROM accounts WHERE kind = ANY ($1)", list(COSTS["period"]))
        return dict(rows)


@pytest.fixture
async def make_world(database_url: str) -> AsyncIterator[Any]:
    pool = await open_pool(database_url, max_size=4)
    everybody: Any = Everybody()

    def make(rounding: str) -> World:
        settings = config.load(
            billing_rounding=rounding, billing_period_seconds=PERIOD_S, default_rate_tokens_per_period=RATE
        )
        db = Database(pool)
        calls = Calls(
            db=db, presence=everybody, limiter=everybody, issuer=ISSUER, out=Heard(), put_out=None, settings=settings
        )
        return World(pool, calls, AgoraEvents(db=db, calls=calls, reconnect_grace_s=GRACE_S))

    yield make
    await pool.close()


def other(role: Role) -> Role:
    return Role.CALLEE if role is Role.CALLER else Role.CALLER


COSTS = {
    "period": {"wallet": 540, "earnings": 48, "platform_revenue": 12},
    "second": {"wallet": 580, "earnings": 16, "platform_revenue": 4},
}
"""Of a call that ends after 20 seconds of a period of 60, at a token a second and a fee of 20 %."""


@pytest.mark.parametrize("rounding", COSTS)
@pytest.mark.parametrize("missing", Role)
async def test_a_call_one_side_of_which_never_came_into_the_channel_is_ended_and_the_rest_returned_by_setting(
    make_world: Any, rounding: str, missing: Role
) -> None:
    world: World = make_world(rounding)
    call = await world.answered()
    assert await world.says(call, other(missing), 1) == "joined"
    await world.clock(20)
    assert await world.do_jobs() == 1
    ended = await world.call(call)
    assert (ended.status, ended.end_reason) == (Status.ENDED, EndReason.DISCONNECTED)
    assert await world.balances() == COSTS[rounding]


@pytest.mark.parametrize("rounding", COSTS)
@pytest.mark.parametrize("gone", Role)
async def test_a_call_one_side_of_which_left_without_telling_is_ended_and_the_rest_returned_by_setting(
    make_world: Any, rounding: str, gone: Role
) -> None:
    world: World = make_world(rounding)
    call = await world.answered()
    for role in Role:
        await world.says(call, role, 1)
    await world.clock(5)
    assert await world.says(call, gone, 2, LeaveReason.TIMED_OUT) == "left"
    await world.clock(20)
    assert await world.do_jobs() == 2, "who had not come when the first came, and who left"
    ended = await world.call(call)
    assert (ended.status, ended.end_reason) == (Status.ENDED, EndReason.DISCONNECTED)
    assert await world.balances() == COSTS[rounding]


async def test_a_call_both_sides_of_which_are_in_the_channel_goes_on(make_world: Any) -> None:
    world: World = make_world("second")
    call = await world.answered()
    for role in Role:
        await world.says(call, role, 1)
    await world.clock(20)
    assert await world.do_jobs() == 1
    assert (await world.call(call)).status is Status.ACTIVE


async def test_a_call_of_whose_channel_nothing_is_told_goes_on(make_world: Any) -> None:
    world: World = make_world("second")
    call = await world.answered()
    assert await world.do_jobs() == 0
    assert (await world.call(call)).status is Status.ACTIVE
