"""The background jobs: queued with what needs them, run by whoever runs, gone on with after a kill."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ledger import migrations
from ledger.database_url import DatabaseUrl
from realtime.adapters.postgres import open_pool
from realtime.adapters.transactions import Database
from realtime.services import jobs, outages
from realtime.services.jobs import Jobs, Periodic
from realtime.services.upkeep import Upkeep
from tests.faults.lines import Line
from tests.payments.conftest import LaunchPaying, Ledger
from tests.payments.stripe import DECLINED_CARD, Stripe
from tests.servers import Launch, eventually

EACH_SECOND = "* * * * * *"


@pytest.fixture
async def pool(database_url: str):
    pool = await open_pool(database_url, max_size=4)
    yield pool
    await pool.close()


class Runner:
    """Jobs that note what they were run with."""

    def __init__(self, url: str, periodic: Sequence[Periodic] = ()) -> None:
        self.ran: list[dict[str, Any]] = []
        self.fail_first = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.jobs = Jobs(url, tasks={"note": self.note}, periodic=periodic)

    async def note(self, **args: Any) -> None:
        self.ran.append(args)
        if len(self.ran) <= self.fail_first:
            raise RuntimeError("not this time")
        await self.hold.wait()


@pytest.fixture
async def runner(database_url: str):
    runner = Runner(database_url)
    running = asyncio.create_task(runner.jobs.run())
    yield runner
    runner.hold.set()
    runner.jobs.stop()
    await asyncio.wait_for(running, 30)


async def test_a_job_is_there_once_its_transaction_has_committed(pool: Any, runner: Runner) -> None:
    async with pool.acquire() as conn:
        rolled_back = conn.transaction()
        await rolled_back.start()
        await jobs.defer(conn, "note", about="rolled back")
        await rolled_back.rollback()
        async with conn.transaction():
            await jobs.defer(conn, "note", about="committed")
            await asyncio.sleep(0)
            assert runner.ran == []
    await eventually(lambda: runner.ran)
    assert runner.ran == [{"about": "committed"}]


async def test_a_job_that_fails_is_tried_again(pool: Any, runner: Runner) -> None:
    runner.fail_first = 1
    async with pool.acquire() as conn:
        await jobs.defer(conn, "note", n=1)
    await eventually(lambda: len(runner.ran) == 2)


@pytest.mark.parametrize(("tried", "level"), [(0, "warning"), (jobs.ATTEMPTS - 1, "warning"), (jobs.ATTEMPTS, "error")])
async def test_a_jobs_failure_is_a_warning_while_it_is_tried_again_and_an_error_the_last_time(
    monkeypatch: pytest.MonkeyPatch, tried: int, level: str
) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(jobs, "log", SimpleNamespace(
        warning=lambda _event, **facts: said.append(("warning", facts)),
        error=lambda _event, **facts: said.append(("error", facts)),
    ))  # fmt: skip

    async def fail(**_args: Any) -> None:
        raise RuntimeError("not this time")

    context: Any = SimpleNamespace(job=SimpleNamespace(attempts=tried, id=7))
    with pytest.raises(RuntimeError):
        await jobs._task("note", fail)(context, n=1)
    [(how, facts)] = said
    assert how == level
    assert facts["attempts"] == tried + 1
    assert (facts["job"], facts["n"], facts["error"]) == ("note", 1, "RuntimeError: not this time")


async def test_a_job_of_a_later_time_waits_for_it(pool: Any, runner: Runner) -> None:
    async with pool.acquire() as conn:
        await jobs.defer(conn, "note", in_s=3600, n="later")
        await jobs.defer(conn, "note", in_s=1, n="soon")
    await eventually(lambda: runner.ran)
    assert runner.ran == [{"n": "soon"}]


async def test_stopping_finishes_the_job_in_hand(pool: Any, database_url: str) -> None:
    runner = Runner(database_url)
    runner.hold.clear()
    running = asyncio.create_task(runner.jobs.run())
    async with pool.acquire() as conn:
        await jobs.defer(conn, "note", n=1)
        await eventually(lambda: runner.ran)
        runner.jobs.stop()
        runner.hold.set()
        await asyncio.wait_for(running, 30)
        assert await conn.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'note'") == 0


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_a_worker_that_misses_its_cancellation_ends_all_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(jobs, "STOP_WITHIN_S", 0.0)
    missed = asyncio.Event()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        missed.set()
        await asyncio.sleep(3600)

    runner = Runner(database_url)
    runner.jobs._work = work  # type: ignore[method-assign]
    running = asyncio.create_task(runner.jobs.run())
    await begun.wait()
    if how == "stopped":
        runner.jobs.stop()
    else:
        running.cancel()
    await asyncio.wait({running}, timeout=30)
    assert running.done()
    assert missed.is_set()
    assert running.cancelled() == (how == "cancelled")
    assert "jobs" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_whatever_a_killed_worker_had_in_hand_is_run_by_another(
    pool: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RESCUE_CRON", EACH_SECOND)
    ticks: list[float] = []

    async def tick() -> None:
        ticks.append(asyncio.get_running_loop().time())

    async with pool.acquire() as conn:
        await jobs.defer(conn, "note", n=1)
        # As a killed worker leaves them: fetched, and its heart beats no more. Of a periodic job the next time may be
        # queued already and wait behind it, and one of them is what looks after such jobs.
        await conn.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args)"
            """ SELECT $1, task, task, task, '{"timestamp": 0}' FROM unnest($2::text[]) task""",
            jobs.QUEUE,
            ["tick", "retry_stalled_jobs"],
        )
        await conn.execute(
            "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '2 minutes')"
            " RETURNING id) UPDATE procrastinate_jobs SET status = 'doing', worker_id = dead.id FROM dead"
        )
        await conn.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args)"
            """ VALUES ($1, 'tick', 'tick', 'tick', '{"timestamp": 60}')""",
            jobs.QUEUE,
        )
    runner = Runner(database_url, [Periodic("tick", "17 4 1 1 *", tick)])
    running = asyncio.create_task(runner.jobs.run())
    await eventually(lambda: runner.ran and ticks)
    runner.jobs.stop()
    await asyncio.wait_for(running, 30)


async def test_a_job_whose_end_cannot_be_recorded_is_run_again_and_said_in_one_line(
    pool: Any, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "RESCUE_CRON", EACH_SECOND)
    said = []
    monkeypatch.setattr(
        outages,
        "log",
        SimpleNamespace(
            warning=lambda event, **facts: said.append((event, facts["error"])),
            info=lambda event, **_: said.append((event, "")),
        ),
    )
    async with pool.acquire() as conn:
        # The connection dies under the statement that records it, once; the server and the worker live on.
        await conn.execute("""
            CREATE SEQUENCE deaths;
            CREATE FUNCTION die_once() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF OLD.task_name = 'note' AND nextval('deaths') = 1 THEN
                    PERFORM pg_terminate_backend(pg_backend_pid());
                    PERFORM pg_sleep(60);
                END IF;
                RETURN OLD;
            END $$;
            CREATE TRIGGER die_once BEFORE DELETE ON procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION die_once();
        """)
        await jobs.defer(conn, "note", n=1)
        runner = Runner(database_url)
        running = asyncio.create_task(runner.jobs.run())
        await eventually(lambda: len(runner.ran) == 2)

        async def none_is_left() -> bool:
            return not await conn.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'note'")

        await eventually(none_is_left)
    runner.jobs.stop()
    await asyncio.wait_for(running, 30)
    gc.collect()  # a task whose error nobody took says so when it goes
    assert [event for event, _error in said] == ["jobs wait for PostgreSQL", "jobs run again"]
    assert "terminating connection" in said[0][1]
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_jobs_wait_for_a_database_that_is_away(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()
    monkeypatch.setattr(outages, "log", SimpleNamespace(warning=lambda *_, **__: tried.set()))

    async def tick() -> None:
        raise AssertionError("there is no database to take its turn from")

    url = database_url.replace("callmeter_test_", "nowhere_")
    waiting = Jobs(url, tasks={}, periodic=[Periodic("tick", "* * * * *", tick)])
    running = asyncio.create_task(waiting.run())
    await asyncio.wait_for(tried.wait(), 30)
    assert not running.done()
    waiting.stop()
    await asyncio.wait_for(running, 30)


async def test_an_outage_that_outlasts_many_tries_is_said_once_and_jobs_run_when_it_is_over(
    pool: Any, database_url: str, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, reasons, tries = [], [], []

    def waits(event: str, error: str) -> None:
        said.append(event)
        reasons.append(error)

    monkeypatch.setattr(outages, "log", SimpleNamespace(warning=waits, info=lambda event, **_: said.append(event)))
    runner = Runner(f"postgresql://postgres@127.0.0.1:{line.port}{urlsplit(database_url).path}")
    work = runner.jobs._work

    async def work_once_more() -> None:
        tries.append(1)
        await work()

    runner.jobs._work = work_once_more  # type: ignore[method-assign]
    line.cut()
    running = asyncio.create_task(runner.jobs.run())
    await eventually(lambda: len(tries) == 3, 60)
    assert said == ["jobs wait for PostgreSQL"]
    assert reasons[0].startswith("OperationalError: connection"), "what kept them, and not that the time was over"
    assert "\n" not in reasons[0]
    line.mend()
    async with pool.acquire() as conn:
        await jobs.defer(conn, "note", n=1)
    await eventually(lambda: runner.ran, 60)
    assert said == ["jobs wait for PostgreSQL", "jobs run again"]
    runner.jobs.stop()
    await asyncio.wait_for(running, 30)


async def test_expired_keys_go_and_unfinished_ones_stay(pool: Any, ledger: Ledger) -> None:
    await ledger.conn.execute("""
        INSERT INTO idempotency_keys (user_id, key, request_hash, holder, held_until, subject, outcome, expires_at)
        SELECT 'ann', key, '', gen_random_uuid(), now(), subject, outcome::json, now() + expires_in FROM (VALUES
            ('answered, over',  NULL,              '{}', interval '-1 second'),
            ('answered',        NULL,              '{}', interval '1 hour'),
            ('came to nothing', NULL,              NULL, interval '-1 second'),
            ('unfinished',      gen_random_uuid(), NULL, interval '-1 second')
        ) AS v(key, subject, outcome, expires_in)
    """)
    await Upkeep(Database(pool)).expire()
    kept = await ledger.conn.fetch("SELECT key FROM idempotency_keys ORDER BY key")
    assert [row["key"] for row in kept] == ["answered", "unfinished"]


async def test_a_missing_partition_of_the_months_ahead_is_made(pool: Any, ledger: Ledger) -> None:
    partitions = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'entries'::regclass"
    before = {row["name"] for row in await ledger.conn.fetch(partitions)}
    furthest = max(name for name in before if name[-7:-3].isdigit())
    await ledger.conn.execute(f"DROP TABLE {furthest}")
    await Upkeep(Database(pool)).make_partitions()
    assert {row["name"] for row in await ledger.conn.fetch(partitions)} == before


async def test_a_broken_ledger_is_said_by_the_nightly_proof(ledger: Ledger, capsys: Any) -> None:
    await Upkeep.verify(ledger.url)
    assert "ledger verified" in capsys.readouterr().out
    await ledger.conn.execute("SET session_replication_role = replica")
    await ledger.conn.execute("UPDATE accounts SET balance = 7 WHERE kind = 'platform_revenue'")
    await Upkeep.verify(ledger.url)
    assert "the ledger is broken" in capsys.readouterr().out


async def test_a_worker_runs_the_jobs_of_a_web_process_that_runs_none(
    launch: Launch, launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    buyer = launch_paying(METER_IN_WEB="false")
    await buyer.buy(await stripe.card(DECLINED_CARD))
    assert [intent["status"] for intent in await stripe.all("payment_intents")] == ["requires_payment_method"]
    worker = launch("worker", **stripe.settings)

    async def cancelled() -> bool:
        return [intent["status"] for intent in await stripe.all("payment_intents")] == ["canceled"]

    await eventually(cancelled)
    assert worker.stop() == 0


async def test_nothing_of_the_job_library_stays_behind_a_migration_down(empty_database_url: str) -> None:
    migrations.up(empty_database_url)
    migrations.down(empty_database_url)
    conn = await asyncpg.connect(**DatabaseUrl.parse(empty_database_url).for_asyncpg())
    try:
        left = await conn.fetch("""
            SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
        """)
    finally:
        await conn.close()
    assert json.dumps([row["name"] for row in left]) == "[]"
    assert migrations.up(empty_database_url).pending == ()
