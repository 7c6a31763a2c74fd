"""Entries written by hand with balance and version of their own making: the database takes those that continue their
accounts, and names the account of any other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

import asyncpg
import psycopg
import pytest

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, TransactionType, credit, debit
from tests.conftest import new_database


@dataclass
class Books:
    """`granted` (debits raise it) is at 150, version 3; ann's wallet (credits raise it) at 100, version 1; bob's at 50,
    version 2, the last 5 of them by hand with the journal `earlier`."""

    conn: psycopg.Connection
    granted: int
    ann: int
    bob: int
    closed: int
    cents: int
    sales: int
    earlier: int


@dataclass(frozen=True)
class Entry:
    journal: int  # which of the statement's journals, from 0
    account: str
    amount: int
    balance_after: int
    version: int


# Two journals that continue both accounts; everything refused below is one step away from this.
RIGHT = (
    Entry(0, "granted", 5, 155, 4),
    Entry(0, "ann", -5, 105, 2),
    Entry(1, "granted", 7, 162, 5),
    Entry(1, "ann", -7, 112, 3),
    Entry(2, "granted", -1, 161, 6),
    Entry(2, "ann", 1, 111, 4),
)


@pytest.fixture(scope="module")
def made_books(postgres_server_url: str, template_database: str) -> Iterator[Books]:
    for url in new_database(postgres_server_url, template_database):
        accounts = asyncio.run(opened(url))
        with psycopg.connect(DatabaseUrl.parse(url).for_psycopg(), autocommit=True) as conn:
            books = Books(conn, **accounts, earlier=0)
            with conn.transaction():
                (books.earlier,) = journals(books, 1)
                write(books, [books.earlier], (Entry(0, "granted", 5, 150, 3), Entry(0, "bob", -5, 50, 2)))
            yield books


async def opened(url: str) -> dict[str, int]:
    db = await asyncpg.connect(**DatabaseUrl.parse(url).for_asyncpg())
    ann, bob, closed = await store.ensure_accounts(db, [(owner, "wallet") for owner in ("ann", "bob", "cat")])
    granted = await store.platform_account(db, "granted_tokens")
    cents = await store.platform_account(db, "stripe_clearing")
    sales = await store.platform_account(db, "token_sales")
    grants = [
        Journal(f"grant:{wallet}", TransactionType.GRANT, (debit(granted, tokens), credit(wallet, tokens)))
        for wallet, tokens in ((ann, 100), (bob, 45))
    ]
    await store.post(db, grants, actor="test")
    await db.execute("UPDATE accounts SET status = 'closed' WHERE id = $1", closed)
    await db.close()
    return {"granted": granted, "ann": ann, "bob": bob, "closed": closed, "cents": cents, "sales": sales}


@pytest.fixture
def books(made_books: Books) -> Iterator[Books]:
    """In a transaction that is rolled back after the test."""
    with made_books.conn.transaction(force_rollback=True):
        yield made_books


def journals(books: Books, count: int, *, whole: int | None = None) -> list[int]:
    """New journals' ids; `whole`: how many entries each says it has."""
    rows = books.conn.execute(
        "INSERT INTO journals (idempotency_key, type, entry_count, content_hash)"
        " SELECT gen_random_uuid()::text, 'adjustment', %(whole)s::smallint,"
        " CASE WHEN %(whole)s::smallint > 0 THEN sha256('') END FROM generate_series(1, %(count)s) RETURNING id",
        {"whole": whole, "count": count},
    )
    return [number for (number,) in rows.fetchall()]


def write(books: Books, ids: list[int], entries: tuple[Entry, ...]) -> None:
    """All in one statement, as given."""
    books.conn.execute(
        "INSERT INTO entries (journal_id, account_id, amount, balance_after, version)"
        " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])",
        [
            [ids[entry.journal] for entry in entries],
            [getattr(books, entry.account) for entry in entries],
            [entry.amount for entry in entries],
            [entry.balance_after for entry in entries],
            [entry.version for entry in entries],
        ],
    )


def commit(books: Books) -> None:
    """All that is looked at when a transaction commits."""
    books.conn.execute("SET CONSTRAINTS ALL IMMEDIATE")


def standing(books: Books, account: int) -> tuple[int, int, int]:
    row = books.conn.execute(
        "SELECT balance, version, last_journal_id FROM accounts WHERE id = %s", [account]
    ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("whole", [None, 2])
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_entries_that_continue_their_accounts_are_taken_in_any_order(
    books: Books, whole: int | None, order: int
) -> None:
    ids = journals(books, 3, whole=whole)
    write(books, ids, RIGHT[::order])
    commit(books)
    assert standing(books, books.granted) == (161, 6, ids[2])
    assert standing(books, books.ann) == (111, 4, ids[2])


def changed(account: str, **columns: tuple[int, int, int]) -> tuple[Entry, ...]:
    """RIGHT with other values in the account's three entries."""
    mine = [place for place, entry in enumerate(RIGHT) if entry.account == account]
    entries = list(RIGHT)
    for column, values in columns.items():
        for place, value in zip(mine, values, strict=True):
            entries[place] = replace(entries[place], **{column: value})
    return tuple(entries)


WRONG = {
    "a debit account leaves a version out": ("granted", {"version": (4, 6, 7)}),
    "a debit account has a version twice": ("granted", {"version": (4, 4, 6)}),
    "a debit account ends where it should with a version twice on the way": ("granted", {"version": (4, 6, 6)}),
    "a debit account begins with a later version": ("granted", {"version": (5, 6, 7)}),
    "a debit account begins with the version it has": ("granted", {"version": (3, 4, 5)}),
    "a debit account counts backwards": ("granted", {"version": (6, 5, 4)}),
    "a debit account begins elsewhere": ("granted", {"balance_after": (156, 163, 162)}),
    "a debit account's balance is off on the way": ("granted", {"balance_after": (155, 163, 161)}),
    "a debit account's balance is off at the end": ("granted", {"balance_after": (155, 162, 160)}),
    "a debit account adds up as if credits raised it": ("granted", {"balance_after": (145, 138, 139)}),
    "a credit account leaves a version out": ("ann", {"version": (2, 4, 5)}),
    "a credit account has a version twice": ("ann", {"version": (2, 2, 4)}),
    "a credit account ends where it should with a version twice on the way": ("ann", {"version": (2, 4, 4)}),
    "a credit account begins with a later version": ("ann", {"version": (3, 4, 5)}),
    "a credit account begins with the version it has": ("ann", {"version": (1, 2, 3)}),
    "a credit account counts backwards": ("ann", {"version": (4, 3, 2)}),
    "a credit account begins elsewhere": ("ann", {"balance_after": (106, 113, 112)}),
    "a credit account's balance is off on the way": ("ann", {"balance_after": (105, 111, 111)}),
    "a credit account's balance is off at the end": ("ann", {"balance_after": (105, 112, 110)}),
    "a credit account adds up as if debits raised it": ("ann", {"balance_after": (95, 88, 89)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_entries_that_do_not_continue_their_account_are_refused_by_its_name(books: Books, wrong: str) -> None:
    account, columns = WRONG[wrong]
    ids = journals(books, 3)
    with pytest.raises(psycopg.Error, match=rf"account {getattr(books, account)} ") as refused:
        write(books, ids, changed(account, **columns))
    assert refused.value.sqlstate == "LG011"


# What else a statement of entries may be refused for; the journals say they are whole with two entries each.
REFUSED = {
    "an account nobody has": ("LG005", (Entry(0, "granted", 5, 155, 4), Entry(0, "cents", -5, -5, 1)), {"cents": 999}),
    "a closed account": ("LG006", (Entry(0, "granted", 5, 155, 4), Entry(0, "closed", -5, 5, 1)), {}),
    "a wallet below zero": ("LG007", (Entry(0, "granted", -101, 49, 4), Entry(0, "ann", 101, -1, 2)), {}),
    "a wallet below zero for one journal": (
        "LG007",
        (
            Entry(0, "granted", -101, 49, 4),
            Entry(0, "ann", 101, -1, 2),
            Entry(1, "granted", 50, 99, 5),
            Entry(1, "ann", -50, 49, 3),
        ),
        {},
    ),
    "a journal that does not sum to zero": ("LG001", (Entry(0, "granted", 5, 155, 4), Entry(0, "ann", -4, 104, 2)), {}),
    "the second of two that does not": (
        "LG001",
        (
            Entry(0, "granted", 5, 155, 4),
            Entry(0, "ann", -5, 105, 2),
            Entry(1, "granted", 5, 160, 5),
            Entry(1, "ann", -6, 111, 3),
        ),
        {},
    ),
    "two that do only together": (
        "LG001",
        (
            Entry(0, "granted", 5, 155, 4),
            Entry(0, "ann", -6, 106, 2),
            Entry(1, "granted", 5, 160, 5),
            Entry(1, "ann", -4, 110, 3),
        ),
        {},
    ),
    "a journal of two units": ("LG002", (Entry(0, "cents", 5, 5, 1), Entry(0, "ann", -5, 105, 2)), {}),
    "more entries than the journal has": (
        "LG012",
        (Entry(0, "granted", 5, 155, 4), Entry(0, "ann", -3, 103, 2), Entry(0, "bob", -2, 52, 3)),
        {},
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_statement_of_entries_is_refused_for_what_its_journals_must_not_do(books: Books, kind: str) -> None:
    sqlstate, entries, stand_ins = REFUSED[kind]
    ids = journals(books, 2, whole=2)
    with pytest.raises(psycopg.Error) as refused:
        write(replace(books, **stand_ins), ids, entries)
    assert refused.value.sqlstate == sqlstate


def test_of_several_journals_that_do_not_balance_the_first_is_named(books: Books) -> None:
    ids = journals(books, 2, whole=2)
    with pytest.raises(psycopg.Error, match=f"journal {ids[0]} does not sum to zero: -1 TOKEN"):
        write(books, ids, REFUSED["two that do only together"][1])


def test_a_journal_whose_entries_come_in_two_statements_is_looked_at_and_audited_once_when_it_commits(
    books: Books,
) -> None:
    """Each statement may be of two units and balance in neither; also where the journal says how many there will be."""
    for number, whole in enumerate((None, 4)):
        (made,) = journals(books, 1, whole=whole)
        write(
            books,
            [made],
            (Entry(0, "cents", 5, 5 + 5 * number, 1 + number), Entry(0, "ann", -5, 105 + 5 * number, 2 + number)),
        )
        write(
            books,
            [made],
            (Entry(0, "sales", -5, 5 + 5 * number, 1 + number), Entry(0, "granted", 5, 155 + 5 * number, 4 + number)),
        )
        commit(books)
        rows = books.conn.execute("SELECT count(*) FROM financial_audit_log WHERE %s = ANY (journal_ids)", [made])
        assert rows.fetchall() == [(1,)]
        assert books.conn.execute("SELECT count(*) FROM journals_unfinished").fetchall() == [(0,)]
        books.conn.execute("SET CONSTRAINTS ALL DEFERRED")


def test_a_journal_that_says_it_has_three_entries_does_not_commit_with_two(books: Books) -> None:
    (made,) = journals(books, 1, whole=3)
    write(books, [made], RIGHT[:2])
    with pytest.raises(psycopg.Error, match=f"journal {made} has 2 entries") as refused:
        commit(books)
    assert refused.value.sqlstate == "LG001"


def test_a_committed_journal_takes_no_more_entries(books: Books) -> None:
    with pytest.raises(psycopg.Error, match=f"journal {books.earlier} takes no more entries") as refused:
        write(books, [books.earlier], (Entry(0, "cents", -5, -5, 1),))
    assert refused.value.sqlstate == "LG012"


def test_an_account_takes_no_entry_of_a_journal_older_than_its_last(books: Books) -> None:
    older, newer = journals(books, 2)
    write(books, [newer], (Entry(0, "granted", 5, 155, 4), Entry(0, "ann", -5, 105, 2)))
    with pytest.raises(psycopg.Error, match=f"account {books.ann} already has entries of journal {newer}") as refused:
        write(books, [older], (Entry(0, "ann", -5, 110, 3), Entry(0, "cents", 5, 5, 1)))
    assert refused.value.sqlstate == "LG012"


def test_what_is_written_by_hand_is_audited_as_of_the_database_user(books: Books) -> None:
    (made,) = journals(books, 1, whole=2)
    write(books, [made], RIGHT[:2])
    said = books.conn.execute(
        "SELECT actor = session_user FROM financial_audit_log WHERE %s = ANY (journal_ids)", [made]
    )
    assert said.fetchall() == [(True,)]


@pytest.mark.parametrize("table", ["journals_unfinished", "detached_partitions"])
def test_the_list_of_what_is_not_finished_and_that_of_what_has_gone_are_not_rewritten(books: Books, table: str) -> None:
    """Else a journal could be taken for listed that nobody looks at when it commits, or one for gone that is there."""
    column = {"journals_unfinished": "journal_id", "detached_partitions": "from_id"}[table]
    for statement in (f"UPDATE {table} SET {column} = 1", f"TRUNCATE {table}"):
        with pytest.raises(psycopg.Error) as refused, books.conn.transaction():
            books.conn.execute(statement)
        assert refused.value.sqlstate == "LG010"
