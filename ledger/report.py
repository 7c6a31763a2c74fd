"""The ledger for people: the trial balance."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from ledger.database_url import DatabaseUrl
from ledger.sql import load

SQL = load("ledger.sql", "report.sql")


@dataclass(frozen=True, slots=True)
class TrialBalanceLine:
    """All accounts of one kind: their balances summed, in the column they fall in."""

    kind: str
    type: str
    unit: str
    accounts: int
    debit: int
    credit: int


def trial_balance(url: str) -> list[TrialBalanceLine]:
    """One line a kind, by unit, type and kind. In each unit the debits equal the credits."""
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        return conn.cursor(row_factory=class_row(TrialBalanceLine)).execute(SQL["trial_balance"]).fetchall()
