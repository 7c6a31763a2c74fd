"""Many writers on few accounts, and many journals on one: nobody waits for ever, nothing is lost, and no plan loops."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import psycopg
import pytest

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, Outcome, TransactionType, credit, debit
from ledger.verify import prove
from scripts.benchmarks.harness import plans
from tests.servers import eventually

WRITERS = 16
ACCOUNTS = 20


async def wallets(db: asyncpg.Connection, count: int, tokens: int) -> list[int]:
    ids = await store.ensure_accounts(db, [(f"user-{number}", "wallet") for number in range(count)])
    source = await store.platform_account(db, "granted_tokens")
    grants = [
        Journal(f"grant:{one}", TransactionType.GRANT, (debit(source, tokens), credit(one, tokens))) for one in ids
    ]
    assert {posting.outcome for posting in await store.post(db, grants, actor="test")} == {Outcome.POSTED}
    return ids


def assert_proved(url: str) -> None:
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        assert prove(conn).findings == ()


async def test_16_writers_on_20_accounts_never_deadlock_and_lose_nothing(
    db: asyncpg.Connection, database_url: str
) -> None:
    ids = await wallets(db, ACCOUNTS, 100)
    seed = random.randrange(2**32)
    print("seed", seed)

    async def writer(number: int) -> list[Outcome]:
        chance = random.Random(seed + number)
        conn = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())
        try:
            outcomes = []
            for turn in range(15):
                journals = []
                for place in range(chance.choice((1, 5, 30))):
                    payer, payee = chance.sample(ids, 2)
                    tokens = chance.randint(1, 40)
                    legs = (debit(payer, tokens), credit(payee, tokens))
                    journals.append(Journal(f"{number}:{turn}:{place}", TransactionType.ADJUSTMENT, legs))
                outcomes += [posting.outcome for posting in await store.post(conn, journals, actor="test")]
            return outcomes
        finally:
            await conn.close()

    answers = await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    outcomes = [outcome for answer in answers for outcome in answer]
    assert set(outcomes) == {Outcome.POSTED, Outcome.INSUFFICIENT_FUNDS}
    posted = await db.fetchval("SELECT count(*) FROM journals WHERE type = 'adjustment'")
    assert posted == outcomes.count(Outcome.POSTED)
    total, least = await db.fetchrow("SELECT sum(balance), min(balance) FROM accounts WHERE kind = 'wallet'")
    assert (total, least >= 0) == (ACCOUNTS * 100, True)
    assert_proved(database_url)


async def test_accounts_are_locked_in_the_order_of_their_ids_wherever_their_rows_lie(
    db: asyncpg.Connection, database_url: str
) -> None:
    first, second, third = ids = await wallets(db, 3, 100)
    await db.execute(
        "CREATE INDEX backwards ON accounts ((-id)); CLUSTER accounts USING backwards; DROP INDEX backwards"
    )
    holder, poster = [await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg()) for _ in range(2)]
    try:
        await poster.execute("SET enable_indexscan = off")  # else the index brings the rows in order anyway
        async with holder.transaction():
            await holder.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", second)
            legs = (debit(third, 2), credit(second, 1), credit(first, 1))
            posting = asyncio.create_task(
                store.post(poster, [Journal("all", TransactionType.ADJUSTMENT, legs)], actor="test")
            )

            async def waits() -> bool:
                asked = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
                return bool(await db.fetchval(asked, poster.get_server_pid()))

            await eventually(waits)
            free = await db.fetch("SELECT id FROM accounts WHERE id = ANY ($1) FOR UPDATE SKIP LOCKED", ids)
            assert [row["id"] for row in free] == [third], "the first is held while the second is waited for"
        assert [one.outcome for one in await posting] == [Outcome.POSTED]
    finally:
        await poster.close()
        await holder.close()


async def test_the_same_keys_from_every_writer_at_once_are_posted_once(
    db: asyncpg.Connection, database_url: str
) -> None:
    ids = await wallets(db, 2, 1_000)
    journals = [
        Journal(f"same:{number}", TransactionType.ADJUSTMENT, (debit(ids[0], 1), credit(ids[1], 1)))
        for number in range(50)
    ]

    async def writer(number: int) -> list[Outcome]:
        conn = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())
        try:
            mine = random.Random(number).sample(journals, len(journals))
            return [posting.outcome for posting in await store.post(conn, mine, actor="test")]
        finally:
            await conn.close()

    answers = await asyncio.gather(*(writer(number) for number in range(8)))
    outcomes = [outcome for answer in answers for outcome in answer]
    assert outcomes.count(Outcome.POSTED) == 50
    assert outcomes.count(Outcome.DUPLICATE) == 7 * 50
    assert (await store.balance(db, "user-1", "wallet")).balance == 1_050


async def test_many_journals_on_one_hot_account_number_it_without_a_gap(
    db: asyncpg.Connection, database_url: str
) -> None:
    ids = await wallets(db, 50, 1_000)
    revenue = await store.platform_account(db, "platform_revenue")
    journals = [
        Journal(f"fee:{number}", TransactionType.ADJUSTMENT, (debit(ids[number % 50], 2), credit(revenue, 2)))
        for number in range(2_000)
    ]
    postings = await store.post(db, journals, actor="test")
    hot = [posting.legs[1] for posting in postings]
    assert [(leg.balance, leg.version) for leg in hot] == [(2 * (number + 1), number + 1) for number in range(2_000)]
    entries = await db.fetch(
        "SELECT balance_after, version FROM entries WHERE account_id = $1 ORDER BY journal_id", revenue
    )
    assert [tuple(entry) for entry in entries] == [(leg.balance, leg.version) for leg in hot]
    assert_proved(database_url)


# -- plans -------------------------------------------------------------------------------------------------------------


async def plans_of(conn: asyncpg.Connection, journals: list[Journal]) -> list[list[str]]:
    """The nodes of each plan that posting these makes, in its functions and triggers; none where one is kept."""
    made = await plans.made_by(conn, _posted(conn, journals))
    return [plan.nodes for plan in made if plan.function != "ledger_audit_append"]  # the head of a stream is one row


async def _posted(conn: asyncpg.Connection, journals: list[Journal]) -> None:
    postings = await store.post(conn, journals, actor="test")
    assert {posting.outcome for posting in postings} == {Outcome.POSTED}


@pytest.mark.parametrize("first", [1, 3_000])
async def test_no_plan_of_posting_loops_over_the_batch_and_one_serves_every_size(
    db: asyncpg.Connection, database_url: str, first: int
) -> None:
    ids = await wallets(db, 40, 10_000)
    revenue = await store.platform_account(db, "platform_revenue")
    await db.execute("ANALYZE")

    def batch(size: int, turn: int = 0) -> list[Journal]:
        return [
            Journal(
                f"{size}:{turn}:{number}",
                TransactionType.ADJUSTMENT,
                (debit(ids[number % 40], 3), credit(ids[(number + 1) % 40], 2), credit(revenue, 1)),
            )
            for number in range(size)
        ]

    conn = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())
    try:
        first_plans = await plans_of(conn, batch(first))
        # News of others, such as an autovacuum's, makes the server forget kept plans: it makes good ones again, and not
        # every time.
        for turn in range(1, 11):
            later = await plans_of(conn, batch(200, turn)) + await plans_of(conn, batch(2, turn))
            assert all({"Nested Loop", "Seq Scan"}.isdisjoint(plan) for plan in later)
            if not later:
                break
    finally:
        await conn.close()
    nodes = {node for plan in first_plans for node in plan}
    assert nodes >= {"Modify Table", "Index Scan", "Named Tuplestore Scan"}, "functions and triggers are seen"
    assert nodes.isdisjoint({"Nested Loop", "Seq Scan"})
    assert later == []
