"""Section 7: the tables as whoever has a connection to the database meets them, by SQL alone."""

from __future__ import annotations

import itertools

import asyncpg
import pytest

COLUMNS = {
    "accounts": {"id", "owner_id", "type", "unit", "balance", "version"},
    "journals": {"id", "idempotency_key", "type"},
    "entries": {"journal_id", "account_id", "amount"},
    "financial_audit_log": {"previous_hash", "hash", "stream"},
}


@pytest.fixture
async def wallet(db: asyncpg.Connection) -> int:
    """A wallet that was given 50 tokens, by a journal written by hand."""
    made: int = await db.fetchval(
        """INSERT INTO accounts (owner_id, kind, type, unit, non_negative)
        SELECT 'ann', kind, type, unit, non_negative FROM account_kinds WHERE kind = 'wallet' RETURNING id"""
    )
    await move(db, "given", {made: -50, await granted(db): 50})
    return made


async def granted(db: asyncpg.Connection) -> int:
    found: int = await db.fetchval("SELECT id FROM accounts WHERE kind = 'granted_tokens'")
    return found


async def write(db: asyncpg.Connection, key: str, amounts: dict[int, int]) -> None:
    """A journal by hand: one statement for it and one for each entry."""
    journal = await db.fetchval(
        "INSERT INTO journals (idempotency_key, type) VALUES ($1, 'adjustment') RETURNING id", key
    )
    for account, amount in amounts.items():
        await db.execute(
            "INSERT INTO entries (journal_id, account_id, amount) VALUES ($1, $2, $3)", journal, account, amount
        )


async def move(db: asyncpg.Connection, key: str, amounts: dict[int, int]) -> None:
    """The same, committed."""
    async with db.transaction():
        await write(db, key, amounts)


async def standing(db: asyncpg.Connection, account: int) -> tuple[int, int]:
    row = await db.fetchrow("SELECT balance, version FROM accounts WHERE id = $1", account)
    return row["balance"], row["version"]


async def test_the_tables_types_and_columns_are_the_contracts(db: asyncpg.Connection) -> None:
    rows = await db.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
    )
    there = {(row["table_name"], row["column_name"]): row["data_type"] for row in rows}
    assert {(table, column) for table, columns in COLUMNS.items() for column in columns} <= set(there)
    bigints = [("accounts", "balance"), ("accounts", "version"), ("entries", "amount")]
    assert {there[column] for column in bigints} == {"bigint"}
    labels = await db.fetch(
        """SELECT typname, array_agg(enumlabel::text) AS labels FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid
        GROUP BY typname"""
    )
    types = {row["typname"]: set(row["labels"]) for row in labels}
    assert types["account_type"] == {"asset", "liability", "equity", "revenue", "expense"}
    assert types["transaction_type"] >= {"purchase", "call_debit", "grant", "refund", "dispute", "adjustment"}
    assert types["account_unit"] == {"TOKEN", "USD_CENT"}


async def test_a_wallet_is_a_liability_whose_credits_are_positive_and_whose_version_counts_its_entries(
    db: asyncpg.Connection, wallet: int
) -> None:
    assert await db.fetchval("SELECT type::text FROM accounts WHERE id = $1", wallet) == "liability"
    assert await standing(db, wallet) == (50, 1)
    await move(db, "spent", {wallet: 20, await granted(db): -20})
    assert await standing(db, wallet) == (30, 2)


async def test_what_does_not_sum_to_zero_in_each_unit_is_refused_at_commit_and_leaves_nothing(
    db: asyncpg.Connection, wallet: int
) -> None:
    cents = await db.fetchval("SELECT id FROM accounts WHERE kind = 'stripe_clearing'")
    source = await granted(db)
    for number, amounts in enumerate([{wallet: -5}, {wallet: -5, source: 4}, {wallet: -5, cents: 5}, {}]):
        transaction = db.transaction()
        await transaction.start()
        await write(db, f"odd-{number}", amounts)  # each statement is taken: it is the commit that looks at the whole
        with pytest.raises(asyncpg.PostgresError):
            await transaction.commit()
        assert await db.fetchval("SELECT count(*) FROM journals WHERE idempotency_key LIKE 'odd-%'") == 0
    assert await standing(db, wallet) == (50, 1)


async def test_a_wallet_cannot_be_spent_below_what_it_holds(db: asyncpg.Connection, wallet: int) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await move(db, "too much", {wallet: 51, await granted(db): -51})
    assert await standing(db, wallet) == (50, 1)
    await move(db, "all of it", {wallet: 50, await granted(db): -50})
    assert await standing(db, wallet) == (0, 2)


async def test_an_idempotency_key_is_there_once(db: asyncpg.Connection, wallet: int) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await move(db, "given", {wallet: -1, await granted(db): 1})
    assert await standing(db, wallet) == (50, 1)


BY_HAND = [
    "UPDATE entries SET amount = amount + 1", "UPDATE entries SET account_id = account_id", "DELETE FROM entries",
    "TRUNCATE entries", "UPDATE journals SET idempotency_key = 'other'", "DELETE FROM journals", "TRUNCATE journals",
    "UPDATE financial_audit_log SET details = '{}'", "DELETE FROM financial_audit_log",
    "TRUNCATE financial_audit_log", "UPDATE accounts SET balance = -1 WHERE kind = 'wallet'",
    "UPDATE accounts SET balance = balance + 1 WHERE kind = 'wallet'", "UPDATE accounts SET version = 9",
    "DELETE FROM accounts", "UPDATE accounts SET owner_id = 'eve' WHERE owner_id = 'ann'",
]  # fmt: skip


@pytest.mark.usefixtures("wallet")
async def test_what_was_written_cannot_be_changed_by_hand(db: asyncpg.Connection) -> None:
    taken = []
    for statement in BY_HAND:
        try:
            await db.execute(statement)
        except asyncpg.PostgresError:
            continue
        taken.append(statement)
    assert not taken


async def test_a_posting_and_its_audit_row_are_of_one_transaction(db: asyncpg.Connection, wallet: int) -> None:
    said = "SELECT count(*) FROM financial_audit_log"
    before = await db.fetchval(said)
    rolled_back = db.transaction()
    await rolled_back.start()
    await write(db, "undone", {wallet: -1, await granted(db): 1})
    await rolled_back.rollback()
    assert await db.fetchval(said) == before
    await move(db, "done", {wallet: -1, await granted(db): 1})
    assert await db.fetchval(said) > before
    rows = await db.fetch("SELECT stream, previous_hash, hash FROM financial_audit_log ORDER BY stream, seq")
    for earlier, later in itertools.pairwise(rows):
        if earlier["stream"] == later["stream"]:
            assert later["previous_hash"] == earlier["hash"]
