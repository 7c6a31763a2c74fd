"""Calls against a real PostgreSQL and Redis: races between tabs, who may do what, and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from realtime import config
from realtime.adapters.limiter import Limiter
from realtime.adapters.postgres import open_pool
from realtime.adapters.presence import Presence
from realtime.adapters.transactions import Database
from realtime.domain import errors
from realtime.domain.call import Call
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls
from tests.metering import ISSUER, Heard, a_meter, grant, set_clock


def identity(user: str, trust: Trust = Trust.VIP) -> Identity:
    return Identity(user_id=user, trust=trust, role=UserRole.USER, expires_at_s=2**33)


@dataclass
class World:
    calls: Calls
    heard: Heard
    pool: Any
    presence: Presence

    async def online(self, *users: str) -> None:
        for user in users:
            await self.presence.arrive(user)
        await self.presence.beat()

    async def rung_by(self, *callers: str) -> list[Call]:
        """Each of them, with 100 tokens, rings somebody of their own."""
        calls = []
        for caller in callers:
            async with self.pool.acquire() as conn:
                await grant(conn, caller, 100)
            await self.online(caller, f"{caller}'s friend")
            calls.append(await self.calls.start(identity(caller), f"{caller}'s friend", "r-1"))
        return calls

    async def rung(self) -> Call:
        """ann, who has 100 tokens, rings bob."""
        async with self.pool.acquire() as conn:
            await grant(conn, "ann", 100)
        await self.online("ann", "bob")
        return await self.calls.start(identity("ann"), "bob", "r-1")


@pytest.fixture
async def make_world(database_url: str, redis_url: str) -> AsyncIterator[Any]:
    closing = []

    async def make(**settings: Any) -> World:
        pool = await open_pool(database_url, max_size=10)
        client = redis.asyncio.from_url(redis_url)
        closing.extend([client.aclose, pool.close])
        heard, presence = Heard(), Presence(client, "here")
        calls = Calls(
            db=Database(pool),
            presence=presence,
            limiter=Limiter(client),
            issuer=ISSUER,
            out=heard,
            put_out=None,
            settings=config.load(**settings),
        )
        return World(calls, heard, pool, presence)

    yield make
    for close in closing:
        await close()


@pytest.fixture
async def world(make_world: Any) -> World:
    made: World = await make_world()
    return made


async def test_ten_tabs_that_answer_at_once_make_one_answer(world: World) -> None:
    call = await world.rung()
    answers = await asyncio.gather(
        *(world.calls.accept("bob", call.id, f"tab-{n}") for n in range(10)), return_exceptions=True
    )
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    lost = [answer for answer in answers if isinstance(answer, errors.CallAlreadyAnswered)]
    assert (len(won), len(lost)) == (1, 9)
    assert won[0].call.periods_billed == 1
    assert len(world.heard.told("user:ann", "balance:update")) == 1
    [accepted] = world.heard.told("user:bob", "call:accepted")
    assert accepted["answeredBy"] == won[0].call.answered_by


async def test_the_tab_that_answered_may_ask_again_and_everybody_is_told_again_and_nobody_billed(world: World) -> None:
    call = await world.rung()
    first = await world.calls.accept("bob", call.id, "tab")
    again = await world.calls.accept("bob", call.id, "tab")
    assert again.call == first.call
    assert again.agora["channel"] == first.agora["channel"]
    told, told_again = world.heard.told("user:ann", "call:accepted")
    assert told == told_again
    assert len(world.heard.told("user:ann", "balance:update")) == 1


async def test_two_tabs_that_start_with_one_request_make_one_call(world: World) -> None:
    async with world.pool.acquire() as conn:
        await grant(conn, "ann", 100)
    await world.online("bob")
    started = await asyncio.gather(*(world.calls.start(identity("ann"), "bob", "same") for _ in range(10)))
    assert len({call.id for call in started}) == 1
    assert len(world.heard.told("user:bob", "call:incoming")) == 1


async def test_one_call_at_a_time_ringing_included_for_both_sides(world: World) -> None:
    await world.rung()
    async with world.pool.acquire() as conn:
        await grant(conn, "bob", 100)
        await grant(conn, "eve", 100)
    await world.online("eve")
    for caller, callee in (("bob", "eve"), ("eve", "bob"), ("eve", "ann"), ("ann", "eve"), ("bob", "ann")):
        with pytest.raises(errors.Busy):
            await world.calls.start(identity(caller), callee, f"{caller}-{callee}")


async def test_two_that_ring_each_other_at_once_are_in_one_call(world: World) -> None:
    async with world.pool.acquire() as conn:
        await grant(conn, "ann", 100)
        await grant(conn, "bob", 100)
    await world.online("ann", "bob")
    for turn in range(10):
        made = await asyncio.gather(
            world.calls.start(identity("ann"), "bob", f"a{turn}"),
            world.calls.start(identity("bob"), "ann", f"b{turn}"),
            return_exceptions=True,
        )
        calls = [one for one in made if isinstance(one, Call)]
        assert len(calls) == 1, made
        assert sum(isinstance(one, errors.Busy) for one in made) == 1
        await world.calls.end(calls[0].caller_id, calls[0].id)


@pytest.mark.parametrize("who", ["ann", "eve"])
async def test_only_the_callee_answers_or_declines(world: World, who: str) -> None:
    call = await world.rung()
    with pytest.raises(errors.NotFound):
        await world.calls.accept(who, call.id, "tab")
    with pytest.raises(errors.NotFound):
        await world.calls.decline(who, call.id)


async def test_a_stranger_can_neither_end_join_see_nor_cancel(world: World) -> None:
    call = await world.rung()
    for attempt in (world.calls.end, world.calls.join, world.calls.get, world.calls.cancel, world.calls.renew):
        with pytest.raises(errors.NotFound):
            await attempt("eve", call.id)
    assert (await world.calls.get("ann", call.id)).status == "ringing"


async def test_a_ring_that_is_over_cannot_be_answered_and_was_missed(make_world: Any) -> None:
    world: World = await make_world(ring_timeout_seconds=5)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with world.pool.acquire() as conn:
        await set_clock(conn, start)
        call = await world.rung()
        await set_clock(conn, start + timedelta(seconds=5))
    with pytest.raises(errors.CallEnded):
        await world.calls.accept("bob", call.id, "tab")
    assert (await world.calls.get("ann", call.id)).end_reason == "missed"
    assert world.heard.told("user:ann", "call:ended")


async def test_a_caller_whose_wallet_was_emptied_while_it_rang_ends_the_call_at_the_answer(world: World) -> None:
    call = await world.rung()
    async with world.pool.acquire() as conn:
        await grant(conn, "ann", -95, key="back")
    with capture_logs() as lines, pytest.raises(errors.InsufficientFunds):
        await world.calls.accept("bob", call.id, "tab")
    ended = await world.calls.get("ann", call.id)
    assert (ended.end_reason, ended.periods_billed) == ("insufficient_funds", 0)
    assert not world.heard.told("user:ann", "call:accepted")
    assert world.heard.told("user:bob", "call:ended")
    assert _ends_logged(lines) == [(str(call.id), "insufficient_funds", 0)]


async def test_an_end_that_an_event_finds_out_before_the_meter_does_is_logged_once(make_world: Any) -> None:
    world: World = await make_world(billing_period_seconds=10, default_rate_tokens_per_period=60)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with world.pool.acquire() as conn:
        await set_clock(conn, start)
        call = await world.rung()
        await world.calls.accept("bob", call.id, "tab")
        await set_clock(conn, start + timedelta(seconds=12))
    with capture_logs() as lines:
        for _ in range(2):
            await world.calls.end("ann", call.id)
    assert _ends_logged(lines) == [(str(call.id), "insufficient_funds", 1)]


def _ends_logged(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    ends = (line for line in lines if line["event"] == "call ended")
    return [(line["call_id"], line["reason"], line["periods_billed"]) for line in ends]


async def test_hanging_up_late_pays_the_periods_that_began_before(make_world: Any) -> None:
    world: World = await make_world(billing_period_seconds=10, call_grace_seconds=30)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with world.pool.acquire() as conn:
        await set_clock(conn, start)
        call = await world.rung()
        await world.calls.accept("bob", call.id, "tab")
        await set_clock(conn, start + timedelta(seconds=25))
    ended = await world.calls.end("ann", call.id)
    assert (ended.end_reason, ended.periods_billed, ended.tokens_spent) == ("hangup", 3, 30)
    assert ended.ended_at == start + timedelta(seconds=25)


async def test_by_the_second_the_unused_rest_comes_back_to_the_wallet(make_world: Any) -> None:
    world: World = await make_world(billing_rounding="second", billing_period_seconds=60)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with world.pool.acquire() as conn:
        await set_clock(conn, start)
        call = await world.rung()
        await world.calls.accept("bob", call.id, "tab")
        await set_clock(conn, start + timedelta(seconds=15))
    ended = await world.calls.end("ann", call.id)
    assert (ended.periods_billed, ended.tokens_spent) == (1, 3)
    assert [update["balance"] for update in world.heard.told("user:ann", "balance:update")] == [90, 97]
    assert [update["balance"] for update in world.heard.told("user:bob", "earnings:update")] == [8, 3]
    again = await world.calls.end("bob", call.id)
    assert again == ended


async def test_starting_is_limited_by_trust(make_world: Any) -> None:
    world: World = await make_world(rate_limit_trust_levels={"basic": 2})
    async with world.pool.acquire() as conn:
        await grant(conn, "ann", 100)
    await world.online("bob")
    for turn in range(2):
        call = await world.calls.start(identity("ann", Trust.BASIC), "bob", f"r{turn}")
        await world.calls.cancel("ann", call.id)
    with pytest.raises(errors.RateLimited) as refused:
        await world.calls.start(identity("ann", Trust.BASIC), "bob", "r2")
    assert 1 <= refused.value.retry_after_s <= 60


async def test_one_request_of_many_tabs_at_once_is_one_start(make_world: Any) -> None:
    world: World = await make_world(rate_limit_trust_levels={"basic": 2})
    async with world.pool.acquire() as conn:
        await grant(conn, "ann", 100)
    await world.online("bob")
    ann = identity("ann", Trust.BASIC)
    started = await asyncio.gather(*(world.calls.start(ann, "bob", "same") for _ in range(10)))
    assert len({call.id for call in started}) == 1
    await world.calls.cancel("ann", started[0].id)
    await world.calls.start(ann, "bob", "another")


async def test_nobody_there_nobody_rung_and_nobody_calls_oneself(world: World) -> None:
    async with world.pool.acquire() as conn:
        await grant(conn, "ann", 100)
    with pytest.raises(errors.CalleeUnavailable):
        await world.calls.start(identity("ann"), "bob", "r")
    with pytest.raises(errors.SelfCall):
        await world.calls.start(identity("ann"), "ann", "r")
    await world.online("bob")
    with pytest.raises(errors.InsufficientFunds):
        await world.calls.start(identity("poor"), "bob", "r")


async def test_a_rate_is_frozen_into_the_call_it_was_started_with(world: World) -> None:
    from realtime.adapters import calls_store

    async with world.pool.acquire() as conn:
        await calls_store.set_rate(conn, "bob", 7)
        call = await world.rung()
        await calls_store.set_rate(conn, "bob", 70)
    answered = await world.calls.accept("bob", call.id, "tab")
    assert (answered.call.terms.rate_tokens_per_period, answered.call.tokens_spent) == (7, 7)


@pytest.mark.parametrize("trouble", ["refused", "held"])
@pytest.mark.parametrize("due", ["rung out", "left"])
async def test_a_call_that_cannot_be_ended_does_not_keep_the_others_from_it(
    make_world: Any, trouble: str, due: str
) -> None:
    world: World = await make_world(ring_timeout_seconds=5, reconnect_grace_seconds=1)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    async with world.pool.acquire() as conn, world.pool.acquire() as holder:
        await set_clock(conn, start)
        first, *others = await world.rung_by("ann", "cleo", "dora")
        watch = Attendance(db=Database(world.pool), presence=world.presence, calls=world.calls, reconnect_grace_s=1)
        meter = a_meter(Database(world.pool), world.heard, world.calls)
        if due == "left":
            for caller in ("ann", "cleo", "dora"):
                await world.presence.leave(caller)
            await watch.sweep()
        await set_clock(conn, start + timedelta(seconds=6 if due == "rung out" else 2))
        if trouble == "refused":
            await conn.execute(
                f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
                CREATE TRIGGER refuse BEFORE UPDATE ON calls FOR EACH ROW
                WHEN (OLD.id = '{first.id}' AND NEW.status = 'ended') EXECUTE FUNCTION refuse()"""
            )
        async with holder.transaction():
            await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            if trouble == "held":
                await holder.execute("SELECT FROM calls WHERE id = $1 FOR UPDATE", first.id)
            await (meter.round() if due == "rung out" else watch.sweep())
            statuses = dict(await conn.fetch("SELECT id, status::text FROM calls"))
        assert statuses == {first.id: "ringing"} | dict.fromkeys((call.id for call in others), "ended")
