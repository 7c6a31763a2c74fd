"""The meter on a real PostgreSQL: once for each period, whatever races, dies or jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from realtime.adapters import calls_store
from realtime.adapters.postgres import open_pool
from realtime.adapters.transactions import Database
from realtime.domain.call import AGORA_UID
from realtime.services import jobs, kicks
from realtime.services.calls import Unobserved
from realtime.services.kicks import Kicks
from realtime.services.metering import Meter
from tests.metering import ISSUER, Heard, a_meter, active_calls, grant, set_clock
from tests.servers import Server, eventually

START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Any]:
    pool = await open_pool(database_url, max_size=8)
    yield pool
    await pool.close()


@pytest.fixture
async def conn(pool: Any) -> AsyncIterator[Any]:
    async with pool.acquire() as conn:
        yield conn


async def meter_all(pool: Any) -> Heard:
    """Bill until nothing is due."""
    heard = Heard()
    await a_meter(Database(pool), heard).round()
    return heard


async def call_row(conn: Any, call_id: Any) -> Any:
    return await conn.fetchrow("SELECT * FROM calls WHERE id = $1", call_id)


async def assert_once_for_each_period(conn: Any, calls: int, periods: int) -> None:
    """Each call billed exactly `periods` times, under its keys, and its money where it belongs."""
    rows = await conn.fetch("SELECT id, periods_billed, tokens_spent, rate_tokens_per_period AS rate FROM calls")
    assert len(rows) == calls
    assert {row["periods_billed"] for row in rows} == {periods}
    assert all(row["tokens_spent"] == periods * row["rate"] for row in rows)
    keys = {row[0] for row in await conn.fetch("SELECT idempotency_key FROM journals WHERE type = 'call_debit'")}
    assert keys == {f"call:{row['id']}:{period}" for row in rows for period in range(1, periods + 1)}
    spent = calls * periods * rows[0]["rate"]
    totals = dict(
        await conn.fetch("SELECT kind, sum(balance)::bigint FROM accounts WHERE unit = 'TOKEN' GROUP BY kind")
    )
    assert totals["earnings"] + totals["platform_revenue"] == spent
    assert totals["wallet"] + spent == totals["granted_tokens"]


async def test_two_meters_racing_over_500_calls_bill_each_period_once(pool: Any, conn: Any) -> None:
    await active_calls(conn, 500, started_at=START, tokens=100, period_s=60)
    await set_clock(conn, START)
    for minute in range(3):
        await set_clock(conn, START + timedelta(minutes=minute))
        await asyncio.gather(*(meter_all(pool) for _ in range(2)))
    await assert_once_for_each_period(conn, 500, 3)


@pytest.mark.timeout(300)
async def test_a_meter_killed_20_times_in_mid_batch_loses_and_doubles_nothing(
    pool: Any, conn: Any, database_url: str, tmp_path: Path
) -> None:
    calls, periods, seed = 500, 40, random.randrange(2**32)
    print("seed", seed)
    moment = random.Random(seed)
    await active_calls(conn, calls, started_at=START, tokens=periods * 10, period_s=60, grace_s=36_000)
    await set_clock(conn, START + timedelta(seconds=60 * periods - 1))
    for kill in range(20):
        await eventually(lambda: _nothing_held(conn))
        before = await _billed(conn)
        async with pool.acquire() as holder, holder.transaction():
            # Open for as long as the meter takes to start, which may be longer than the pool lets a transaction idle.
            await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            # Every other batch finds an account held, so that it is seen half done when its meter is killed.
            if kill % 2:
                await holder.execute("SELECT FROM accounts WHERE kind = 'platform_revenue' FOR UPDATE")
            meter = Server(["-m", "tests.metering", database_url], {"PORT": "0"}, tmp_path / f"{kill}.log")
            if kill % 2:
                await eventually(lambda: _in_mid_batch(conn))
            else:
                await eventually(partial(_more_billed, conn, before))
                await asyncio.sleep(moment.uniform(0.0, 0.05))  # into some moment of the batch that follows
            meter.kill()
    assert 0 < await _billed(conn) < calls * periods, "the kills came in the middle of the work"
    await eventually(lambda: _nothing_held(conn))
    await meter_all(pool)
    await assert_once_for_each_period(conn, calls, periods)


async def _billed(conn: Any) -> int:
    return int(await conn.fetchval("SELECT sum(periods_billed) FROM calls"))


async def _more_billed(conn: Any, before: int) -> bool:
    return await _billed(conn) > before


async def _in_mid_batch(conn: Any) -> bool:
    """Whether a meter's batch has locked its calls and waits for an account."""
    waiting = await conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%bill_calls%'"
        " AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
    )
    return bool(waiting)


async def _nothing_held(conn: Any) -> bool:
    """Whether the killed meters' backends have noticed that nobody is there."""
    others = await conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%bill_calls%'"
        " AND state <> 'idle' AND pid <> pg_backend_pid()"
    )
    return bool(others == 0)


async def test_how_late_a_debit_came_is_told_by_the_clock_that_made_it_due(pool: Any, conn: Any) -> None:
    lags_s: list[float] = []

    class Noting(Unobserved):
        def meter_batch(self, *, size: int, seconds: float, lag_s: float) -> None:
            lags_s.append(lag_s)

    await active_calls(conn, 1, started_at=START, tokens=10)
    meter = Meter(db=Database(pool), calls=cast(Any, None), issuer=ISSUER, out=Heard(), put_out=None, observer=Noting())
    for at_s in (2, 63):  # a period that is paid, and one that cannot be
        await set_clock(conn, START + timedelta(seconds=at_s))
        await meter.round()
    assert lags_s == [2, 3]


async def test_a_call_that_cannot_pay_its_next_period_ends_where_the_paid_one_does(pool: Any, conn: Any) -> None:
    [call_id] = await active_calls(conn, 1, started_at=START, tokens=25)
    for minute in range(3):
        await set_clock(conn, START + timedelta(minutes=minute, milliseconds=300))
        heard = await meter_all(pool)
    row = await call_row(conn, call_id)
    assert (row["status"], row["end_reason"], row["periods_billed"]) == ("ended", "insufficient_funds", 2)
    assert row["ended_at"] == row["paid_through"] == START + timedelta(minutes=2)
    assert heard.told("user:caller-0", "call:ended")
    assert heard.told("user:callee-0", "call:ended")
    assert await conn.fetchval("SELECT count(*) FROM live_parties") == 0


async def test_a_top_up_in_the_last_paid_period_keeps_the_call_going(pool: Any, conn: Any) -> None:
    [call_id] = await active_calls(conn, 1, started_at=START, tokens=10)
    await set_clock(conn, START)
    heard = await meter_all(pool)
    [low] = heard.told("user:caller-0", "balance:low")
    assert low["periodsLeft"] == 0
    await set_clock(conn, START + timedelta(seconds=59))
    await grant(conn, "caller-0", 10, key="top-up")
    await set_clock(conn, START + timedelta(seconds=60))
    await meter_all(pool)
    row = await call_row(conn, call_id)
    assert (row["status"], row["periods_billed"]) == ("active", 2)


async def test_an_outage_within_the_grace_is_caught_up_for_the_time_that_was_used(pool: Any, conn: Any) -> None:
    [call_id] = await active_calls(conn, 1, started_at=START, tokens=1000, period_s=1, grace_s=10)
    await set_clock(conn, START)
    await meter_all(pool)
    await set_clock(conn, START + timedelta(seconds=6.5))
    await meter_all(pool)
    row = await call_row(conn, call_id)
    assert (row["status"], row["periods_billed"]) == ("active", 7)


async def test_an_outage_longer_than_the_grace_ends_the_call_where_it_was_paid_to_and_bills_nothing(
    pool: Any, conn: Any
) -> None:
    [call_id] = await active_calls(conn, 1, started_at=START, tokens=1000)
    await set_clock(conn, START)
    await meter_all(pool)
    await set_clock(conn, START + timedelta(seconds=60 + 10 + 1))
    heard = await meter_all(pool)
    row = await call_row(conn, call_id)
    assert (row["status"], row["end_reason"], row["periods_billed"]) == ("ended", "failed", 1)
    assert row["ended_at"] == START + timedelta(seconds=60)
    assert heard.told("user:caller-0", "call:ended")
    await assert_once_for_each_period(conn, 1, 1)


async def test_a_clock_that_jumps_back_bills_no_period_again(pool: Any, conn: Any) -> None:
    await active_calls(conn, 5, started_at=START, tokens=1000)
    for seconds in (0, 60, -3600, 30, 61, 10, 119):
        await set_clock(conn, START + timedelta(seconds=seconds))
        await meter_all(pool)
    await assert_once_for_each_period(conn, 5, 2)


async def test_a_clock_that_jumps_ahead_ends_calls_and_never_bills_the_jump(pool: Any, conn: Any) -> None:
    await active_calls(conn, 5, started_at=START, tokens=10_000)
    await set_clock(conn, START)
    await meter_all(pool)
    await set_clock(conn, START + timedelta(days=1))
    await meter_all(pool)
    await assert_once_for_each_period(conn, 5, 1)
    assert {row["status"] for row in await conn.fetch("SELECT status FROM calls")} == {"ended"}


async def test_a_fee_of_nothing_or_of_everything_is_a_journal_of_two_entries(pool: Any, conn: Any) -> None:
    free, dear = await active_calls(conn, 2, started_at=START, tokens=1000)
    await conn.execute("UPDATE calls SET fee_tokens_per_period = 0, fee_percent = 0 WHERE id = $1", free)
    await conn.execute("UPDATE calls SET fee_tokens_per_period = 10, fee_percent = 100 WHERE id = $1", dear)
    await set_clock(conn, START)
    heard = await meter_all(pool)
    kinds = await conn.fetch(
        "SELECT j.idempotency_key, array_agg(a.kind ORDER BY a.kind)"
        " FROM journals j JOIN entries e ON e.journal_id = j.id"
        " JOIN accounts a ON a.id = e.account_id WHERE j.type = 'call_debit' GROUP BY 1"
    )
    assert dict(kinds) == {f"call:{free}:1": ["earnings", "wallet"], f"call:{dear}:1": ["platform_revenue", "wallet"]}
    assert heard.told("user:callee-0", "earnings:update")[0]["balance"] == 10
    assert not heard.told("user:callee-1", "earnings:update")


async def test_a_period_is_not_billed_a_moment_before_it_begins(pool: Any, conn: Any) -> None:
    await active_calls(conn, 3, started_at=START, tokens=100)
    for moment in (timedelta(0), timedelta(seconds=59.999)):
        await set_clock(conn, START + moment)
        await meter_all(pool)
    await assert_once_for_each_period(conn, 3, 1)


async def test_a_batch_and_its_kicks_are_committed_together_or_not_at_all(pool: Any, conn: Any) -> None:
    ids = await active_calls(conn, 2, started_at=START, tokens=10)
    await set_clock(conn, START)
    await meter_all(pool)
    await set_clock(conn, START + timedelta(seconds=61))
    await conn.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no more jobs'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    heard = Heard()
    job = Kicks(agora=cast(Any, object())).job
    meter = Meter(db=Database(pool), calls=None, issuer=ISSUER, out=heard, put_out=job)  # type: ignore[arg-type]
    await meter.round()
    assert {(await call_row(conn, call_id))["status"] for call_id in ids} == {"active"}
    assert not heard.pushes, "what is not committed is not told"
    await conn.execute("DROP TRIGGER refuse ON procrastinate_jobs")
    await meter.round()
    assert {(await call_row(conn, call_id))["end_reason"] for call_id in ids} == {"insufficient_funds"}
    calls = [found for call_id in ids if (found := await calls_store.get(conn, call_id)) is not None]
    queued = await conn.fetch("SELECT queue_name, task_name, args FROM procrastinate_jobs ORDER BY id")
    assert {(row["queue_name"], row["task_name"]) for row in queued} == {(jobs.QUEUE, kicks.TASK)}
    sides = {(call.channel, uid) for call in calls for uid in AGORA_UID.values()}
    assert {(row["args"]["channel"], row["args"]["uid"]) for row in queued} == sides
    assert len(queued) == 4
    assert heard.told("user:caller-0", "call:ended")


async def test_a_call_that_the_database_refuses_to_bill_does_not_keep_the_others_from_it(pool: Any, conn: Any) -> None:
    first, *others = await active_calls(conn, 5, started_at=START, tokens=100)
    await conn.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON calls FOR EACH ROW
        WHEN (OLD.id = '{first}' AND NEW.status = 'active') EXECUTE FUNCTION refuse()"""
    )
    await set_clock(conn, START + timedelta(seconds=1))
    heard = await meter_all(pool)
    billed = {row["id"]: row["periods_billed"] for row in await conn.fetch("SELECT id, periods_billed FROM calls")}
    assert billed == {first: 0} | dict.fromkeys(others, 1)
    assert [len(heard.told(f"user:caller-{number}", "balance:update")) for number in range(5)] == [0, 1, 1, 1, 1]
    assert await conn.fetchval("SELECT balance FROM accounts WHERE owner_id = 'caller-0' AND kind = 'wallet'") == 100


async def test_a_call_whose_wallet_somebody_holds_does_not_keep_the_others_from_being_billed(
    pool: Any, conn: Any
) -> None:
    first, *others = await active_calls(conn, 5, started_at=START, tokens=100)
    await set_clock(conn, START + timedelta(seconds=1))
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await holder.execute("SELECT FROM accounts WHERE owner_id = 'caller-0' AND kind = 'wallet' FOR UPDATE")
        heard = await meter_all(pool)
        billed = {row["id"]: row["periods_billed"] for row in await conn.fetch("SELECT id, periods_billed FROM calls")}
        assert billed == {first: 0} | dict.fromkeys(others, 1)
        assert [len(heard.told(f"user:caller-{n}", "balance:update")) for n in range(5)] == [0, 1, 1, 1, 1]
    await meter_all(pool)
    await assert_once_for_each_period(conn, 5, 1)
