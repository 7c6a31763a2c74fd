"""A ledger in which everything has happened: grants, calls, purchases, a debt, a journal by hand, a closed account.

All but the journal by hand is of an old month: the one before the last, so that it is over on the first of a month too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date

import asyncpg
import psycopg

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, Outcome, TransactionType, credit, debit

# Text that a format which does not quote would trip over.
AWKWARD_OWNER = 'a,b "c"; \\ \n\t%41 [2020-13-45] date:1999-01-01  d\'é漢\u2028=1+1'
AWKWARD_KEY = f"key of {AWKWARD_OWNER} type:X"


async def fill(database_url: str) -> None:
    """Fills an empty migrated ledger; two audit streams, since two transactions post at once."""
    connect = DatabaseUrl.parse(database_url).for_asyncpg()
    first, second = await asyncpg.connect(**connect), await asyncpg.connect(**connect)
    owners = ("ann", "bob", "cat", AWKWARD_OWNER)
    wallets = dict(zip(owners, await store.ensure_accounts(first, [(o, "wallet") for o in owners]), strict=True))
    earnings = dict(zip(owners, await store.ensure_accounts(first, [(o, "earnings") for o in owners]), strict=True))
    (owed,) = await store.ensure_accounts(first, [("cat", "receivable")])
    platform = {
        kind: await store.platform_account(first, kind)
        for kind in ("granted_tokens", "platform_revenue", "tokens_issued", "stripe_clearing", "token_sales")
    }

    def grant(owner: str, tokens: int) -> Journal:
        legs = (debit(platform["granted_tokens"], tokens), credit(wallets[owner], tokens))
        return Journal(f"grant:{owner}", TransactionType.GRANT, legs, {"reason": 'a "start"\n'})

    def minute(caller: str, callee: str, call: int, period: int) -> Journal:
        legs = (debit(wallets[caller], 10), credit(earnings[callee], 8), credit(platform["platform_revenue"], 2))
        return Journal(f"call:{call}:{period}", TransactionType.CALL_DEBIT, legs, {"call": call, "period": period})

    def purchase(owner: str, key: str, cents: int, tokens: int) -> Journal:
        legs = (
            debit(platform["stripe_clearing"], cents),
            credit(platform["token_sales"], cents),
            debit(platform["tokens_issued"], tokens),
            credit(wallets[owner], tokens),
        )
        return Journal(key, TransactionType.PURCHASE, legs, {"note": AWKWARD_KEY})

    async with in_the_old_month(first):
        await post(first, [grant("ann", 100), grant("bob", 50), purchase(AWKWARD_OWNER, AWKWARD_KEY, 499, 500)])
        async with first.transaction(), second.transaction():
            await post(first, [minute("ann", "bob", 1, 1), minute("ann", "bob", 1, 2)])
            await post(second, [purchase("cat", "purchase:cat", 1000, 1000)])
        await store.audit(first, actor="root", action="refund", subject="purchase:cat", details={"why": "asked for"})
        await post(first, [minute("ann", "bob", 1, 3), minute("bob", "cat", 2, 1), minute(AWKWARD_OWNER, "ann", 3, 1)])
        clawed_back = (
            credit(platform["stripe_clearing"], 1000),
            debit(platform["token_sales"], 1000),
            credit(platform["tokens_issued"], 1000),
            debit(wallets["cat"], 990),
            debit(owed, 10),
        )
        await post(first, [Journal("refund:cat", TransactionType.REFUND, clawed_back)])
    async with first.transaction():  # by hand, entry by entry
        made = await first.fetchval(
            "INSERT INTO journals (idempotency_key, type) VALUES ('by hand', 'adjustment') RETURNING id"
        )
        for account, amount in ((platform["granted_tokens"], 7), (wallets["bob"], -7)):
            await first.execute(
                "INSERT INTO entries (journal_id, account_id, amount) VALUES ($1, $2, $3)", made, account, amount
            )
    await first.execute("UPDATE accounts SET status = 'closed' WHERE id = $1", earnings[AWKWARD_OWNER])
    await store.audit(first, actor="root", action="note", subject="the last row", details={"n": 1})
    await first.close()
    await second.close()


async def post(conn: asyncpg.Connection, journals: list[Journal]) -> None:
    postings = await store.post(conn, journals, actor="test")
    assert {posting.outcome for posting in postings} == {Outcome.POSTED}


OLD_MONTH = "(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '2 months')"


@asynccontextmanager
async def in_the_old_month(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Journals posted meanwhile, on any connection, are of the old month, which gets its partitions."""
    month = await conn.fetchval(f"SELECT to_char({OLD_MONTH}, '_YYYY_MM')")
    bounds = await conn.fetchrow(
        f"SELECT ledger_id_at({OLD_MONTH} AT TIME ZONE 'UTC'),"
        f" ledger_id_at(({OLD_MONTH} + interval '1 month') AT TIME ZONE 'UTC')"
    )
    for table in ("journals", "entries"):
        await conn.execute(f"CREATE TABLE {table}{month} (LIKE {table} INCLUDING ALL)")
        await conn.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {table}{month} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
        )
        await conn.execute(f"SELECT ledger_guard_table('{table}{month}', '{table}')")
    clock = await conn.fetchval("SELECT pg_get_functiondef('ledger_id_at'::regproc)")
    await conn.execute(clock.replace("epoch FROM p_at)", "epoch FROM p_at AT TIME ZONE 'UTC' - interval '2 months')"))
    yield
    await conn.execute(clock)


def old_month(conn: psycopg.Connection) -> date:
    row = conn.execute(f"SELECT {OLD_MONTH}::date").fetchone()
    assert row is not None
    month: date = row[0]
    return month


def detach(conn: psycopg.Connection) -> None:
    """Takes the old month away: the journals before the one by hand."""
    conn.execute("SELECT ledger_detach_month(%s)", [old_month(conn)])
