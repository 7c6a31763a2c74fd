"""The ledger over asyncpg: each function is one round trip on the connection given, in its transaction if there is one.

`post` decides nothing: `ledger_post` in the database does (see the first migration).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg

from ledger.journals import (
    Account,
    AccountType,
    HistoryEntry,
    Journal,
    Outcome,
    PostedLeg,
    Posting,
    Statement,
    TransactionType,
    Unit,
)
from ledger.sql import load

SQL = load("ledger.sql", "store.sql")
BIGINT_MAX = 2**63 - 1
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""NUL as JSON writes it; the same six characters behind a backslash of the text's own are none."""

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"


async def post(conn: Connection, journals: Sequence[Journal], *, actor: str) -> list[Posting]:
    """Posts a batch as if one by one in this order, and answers each journal in order.

    A refusal is an answer, never an exception, and never touches its neighbours. Raises asyncpg.UniqueViolationError if
    another transaction posted one of the keys over other accounts meanwhile; nothing is written then, and posting again
    answers it.
    """
    if not journals:
        return []
    legs = [(ordinal, leg) for ordinal, journal in enumerate(journals, start=1) for leg in journal.legs]
    texts = [_database_text(journal) for journal in journals]
    rows = await conn.fetch(
        SQL["post"],
        [key for key, _ in texts],
        [journal.type for journal in journals],
        [details for _, details in texts],
        [ordinal for ordinal, _ in legs],
        [_bigint(leg.account_id) for _, leg in legs],
        [_bigint(leg.amount) for _, leg in legs],
        actor,
    )
    return [
        Posting(
            outcome=Outcome(row["outcome"]),
            journal_id=row["journal_id"],
            legs=tuple(map(PostedLeg, (leg.account_id for leg in journal.legs), row["balances"], row["versions"])),
        )
        for journal, row in zip(journals, rows, strict=True)
    ]


async def ensure_accounts(conn: Connection, wanted: Iterable[tuple[str, str]]) -> list[int]:
    """The account ids of (owner id, kind) pairs in their order, made where missing, also by two at once.

    Raises asyncpg.PostgresError with sqlstate LG013 for a kind that owners do not have.
    """
    pairs = list(wanted)
    owners, kinds = [owner for owner, _ in pairs], [kind for _, kind in pairs]
    ids: list[int] = await conn.fetchval(SQL["ensure_accounts"], owners, kinds)
    return ids


async def platform_account(conn: Connection, kind: str) -> int:
    """The id of the platform's account of this kind; it never changes. Raises LookupError if there is none."""
    account_id: int | None = await conn.fetchval(SQL["platform_account"], kind)
    if account_id is None:
        raise LookupError(f"the platform has no account of kind {kind!r}")
    return account_id


async def account(conn: Connection, account_id: int) -> Account | None:
    """The account as it stands, by primary key."""
    row = await conn.fetchrow(SQL["account"], account_id)
    if row is None:
        return None
    return Account(**{**row, "type": AccountType(row["type"]), "unit": Unit(row["unit"])})


async def balance(conn: Connection, owner_id: str, kind: str) -> Statement:
    """What the owner's account holds now; zero at version 0 while it does not exist."""
    row = await conn.fetchrow(SQL["balance"], owner_id, kind)
    return Statement(**row) if row else Statement(0, 0)


async def balances(conn: Connection, owner_ids: Sequence[str], kind: str) -> dict[str, Statement]:
    """What each of the owners' accounts holds now, by owner; those that exist."""
    rows = await conn.fetch(SQL["balances"], owner_ids, kind)
    return {row["owner_id"]: Statement(row["balance"], row["version"]) for row in rows}


class MonthDetached(LookupError):
    """What the account held then is in a month that was detached; asking again does not help, its dump does."""


async def balance_at(conn: Connection, account_id: int, at: datetime) -> Statement:
    """What the account held at the end of the millisecond of `at` (with a time zone); zero at version 0 before its
    first entry. Raises MonthDetached if that can only be read in a month that was detached."""
    row = await conn.fetchrow(SQL["balance_at"], account_id, at)
    # No entry so early is here: a second question, which is rare.
    if row is None:
        row = await conn.fetchrow(SQL["balance_before_entries"], account_id, at)
        if row is None:
            return Statement(0, 0)
        if not row["is_known"]:
            raise MonthDetached(f"what account {account_id} held at {at.isoformat()} is in a month that was detached")
    return Statement(row["balance"], row["version"])


async def history(
    conn: Connection, account_id: int, *, before: int | None = None, limit: int = 50
) -> list[HistoryEntry]:
    """The account's entries, newest first; `before` is the journal_id of the last entry of the page before this one."""
    rows = await conn.fetch(SQL["history"], account_id, BIGINT_MAX if before is None else before, limit)
    return [
        HistoryEntry(**{**row, "type": TransactionType(row["type"]), "details": json.loads(row["details"])})
        for row in rows
    ]


async def audit(conn: Connection, *, actor: str, action: str, subject: str, details: Mapping[str, Any]) -> None:
    """Adds a row to the financial audit log, in the transaction of what it records."""
    await conn.execute(SQL["audit"], actor, action, subject, json.dumps(details))


def _database_text(journal: Journal) -> tuple[str | None, str]:
    """Key and details as PostgreSQL can hold them. It holds neither NUL nor half a surrogate pair: such a journal goes
    without its key and is answered invalid_journal, so that it cannot fail its neighbours."""
    details = json.dumps(journal.details, ensure_ascii=False, allow_nan=False)
    try:
        (journal.key + details).encode()
    except UnicodeEncodeError:
        return None, "{}"
    if "\0" in journal.key or _NUL.search(details):
        return None, "{}"
    return journal.key, details


def _bigint(number: int) -> int:
    """What is beyond bigint stays beyond every amount and account there is."""
    return max(-BIGINT_MAX, min(BIGINT_MAX, number))


async def account_id(conn: Connection, owner_id: str, kind: str) -> int | None:
    """The id of the owner's account; None while it does not exist."""
    found: int | None = await conn.fetchval(SQL["account_id"], owner_id, kind)
    return found
