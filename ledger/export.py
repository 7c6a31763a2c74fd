"""The journal as text that other programs read: CSV, and the plain-text accounting formats of hledger and beancount.

The two accounting formats carry what their programs can check against us: every posting's running balance for hledger,
and every account's final balance for beancount. So a program that shares no line with this one proves our balances.

An account is named by its type, kind and number (`Liabilities:Wallet:17`); whose it is stands beside it, since an
owner's id may be any text. Amounts are signed as ours are: debit positive, credit negative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Protocol, TypeVar

import psycopg
from psycopg.rows import class_row

from ledger.snapshot import snapshot
from ledger.sql import load

SQL = load("ledger.sql", "export.sql")
# Journal ids count from here: no journal is older, and every account is open by then.
OPENED = date(2020, 1, 1)
ROWS_A_FETCH = 5_000
Row = TypeVar("Row")
ROOTS = {"asset": "Assets", "liability": "Liabilities", "equity": "Equity", "revenue": "Income", "expense": "Expenses"}


@dataclass(frozen=True, slots=True)
class Account:
    id: int
    owner_id: str | None
    kind: str
    type: str
    unit: str
    debit_balance: int


@dataclass(frozen=True, slots=True)
class Opening:
    account_id: int
    kind: str
    type: str
    unit: str
    amount: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry with what there is to say of its journal; the balance is signed as the amount is."""

    journal_id: str
    date: str
    journal_type: str
    idempotency_key: str
    details: str
    account_id: int
    owner_id: str | None
    kind: str
    type: str
    unit: str
    amount: int
    debit_balance_after: int


class PlainText(Protocol):
    """One way of writing the ledger down; everything answers whole lines."""

    @property
    def head(self) -> str: ...

    def account(self, account: Account) -> str: ...

    def openings(self, openings: list[Opening]) -> str:
        """What accounts brought from months that are not here any more."""

    def journal(self, entries: list[Entry]) -> str: ...

    def end(self, account: Account, last_day: date) -> str:
        """What the account holds after `last_day`."""


class Beancount:
    """https://beancount.github.io/docs/beancount_language_syntax.html"""

    head = f"""option "title" "CallMeter"
{OPENED} commodity TOKEN
{OPENED} commodity USD_CENT

"""

    def account(self, account: Account) -> str:
        owner = f"  owner: {_quoted(account.owner_id)}\n" if account.owner_id is not None else ""
        return f"{OPENED} open {_name(account.type, account.kind, account.id)} {account.unit}\n{owner}"

    def openings(self, openings: list[Opening]) -> str:
        legs = (f"  {_name(o.type, o.kind, o.account_id)}  {o.amount} {o.unit}\n" for o in openings)
        return f'\n{OPENED} * "opening balances"\n{"".join(legs)}'

    def journal(self, entries: list[Entry]) -> str:
        first = entries[0]
        legs = (f"  {_name(e.type, e.kind, e.account_id)}  {e.amount} {e.unit}\n" for e in entries)
        return (
            f"\n{first.date} * {_quoted(first.journal_type)} {_quoted(first.idempotency_key)}\n"
            f'  id: "{first.journal_id}"\n  details: {_quoted(first.details)}\n{"".join(legs)}'
        )

    def end(self, account: Account, last_day: date) -> str:
        # A balance is that of the day's beginning.
        name = _name(account.type, account.kind, account.id)
        return f"{last_day + timedelta(days=1)} balance {name}  {account.debit_balance} {account.unit}\n"


class Hledger:
    """https://hledger.org/hledger.html#journal"""

    head = """; CallMeter
decimal-mark .
commodity 1. "TOKEN"
commodity 1. "USD_CENT"

"""

    def account(self, account: Account) -> str:
        owner = f"  ; owner:{_tag_value(account.owner_id)}" if account.owner_id is not None else ""
        return f"account {_name(account.type, account.kind, account.id)}{owner}\n"

    def openings(self, openings: list[Opening]) -> str:
        legs = (f'    {_name(o.type, o.kind, o.account_id)}  {o.amount} "{o.unit}"\n' for o in openings)
        return f"\n{OPENED} * opening balances\n{''.join(legs)}"

    def journal(self, entries: list[Entry]) -> str:
        first = entries[0]
        legs = (
            f'    {_name(e.type, e.kind, e.account_id)}  {e.amount} "{e.unit}" = {e.debit_balance_after} "{e.unit}"\n'
            for e in entries
        )
        return (
            f"\n{first.date} * {first.journal_type}  ; id:{first.journal_id}\n"
            f"    ; key:{_tag_value(first.idempotency_key)}\n"
            f"    ; details:{_tag_value(first.details)}\n{''.join(legs)}"
        )

    def end(self, account: Account, last_day: date) -> str:
        return ""  # each posting has said it already


def export(url: str, form: str) -> Iterator[bytes]:
    """The whole ledger in one of FORMATS, in chunks of UTF-8, from one snapshot and in constant memory."""
    with snapshot(url) as conn:
        yield from FORMATS[form](conn)


def _csv(conn: psycopg.Connection) -> Iterator[bytes]:
    with conn.cursor().copy(SQL["csv"]) as copy:
        for chunk in copy:
            yield bytes(chunk)


def _in_plain_text(text: PlainText) -> Callable[[psycopg.Connection], Iterator[bytes]]:
    def write(conn: psycopg.Connection) -> Iterator[bytes]:
        newest: datetime | None
        (newest,) = conn.execute(SQL["last_day"]).fetchone() or (None,)
        last_day = newest.date() if newest else OPENED
        yield text.head.encode()
        for account in _rows(conn, Account, "accounts"):
            yield text.account(account).encode()
        if openings := list(_rows(conn, Opening, "openings")):
            yield text.openings(openings).encode()
        for _, entries in groupby(_rows(conn, Entry, "entries"), key=lambda entry: entry.journal_id):
            yield text.journal(list(entries)).encode()
        yield b"\n"
        for account in _rows(conn, Account, "accounts"):
            yield text.end(account, last_day).encode()

    return write


FORMATS = {"csv": _csv, "hledger": _in_plain_text(Hledger()), "beancount": _in_plain_text(Beancount())}


def _rows(conn: psycopg.Connection, row: type[Row], query: str) -> Iterator[Row]:
    with conn.cursor(name=query, row_factory=class_row(row)) as cursor:
        cursor.itersize = ROWS_A_FETCH
        yield from cursor.execute(SQL[query])


def _name(account_type: str, kind: str, account_id: int) -> str:
    return f"{ROOTS[account_type]}:{''.join(word.capitalize() for word in kind.split('_'))}:{account_id}"


def _quoted(text: str) -> str:
    """A string of beancount's."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


# A value of a tag ends with the line or at a comma.
_ENDS_A_TAG = re.compile(r"[%,\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _tag_value(text: str) -> str:
    """A value of a tag of hledger's; what would end it is percent-encoded."""
    return _ENDS_A_TAG.sub(lambda end: "".join(f"%{byte:02X}" for byte in end[0].encode()), text)
