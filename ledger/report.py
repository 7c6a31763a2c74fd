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


@dataclass(frozen=True, slots=True)
class Total:
    """Both columns of one unit."""

    unit: str
    debit: int
    credit: int


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """Lines by unit, type and kind, and a total for each unit, in which the debits equal the credits."""

    lines: tuple[TrialBalanceLine, ...]
    totals: tuple[Total, ...]

    @property
    def is_even(self) -> bool:
        return all(total.debit == total.credit for total in self.totals)


def trial_balance(url: str) -> TrialBalance:
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        lines = conn.cursor(row_factory=class_row(TrialBalanceLine)).execute(SQL["trial_balance"]).fetchall()
    totals = [
        Total(
            unit,
            debit=sum(line.debit for line in lines if line.unit == unit),
            credit=sum(line.credit for line in lines if line.unit == unit),
        )
        for unit in dict.fromkeys(line.unit for line in lines)
    ]
    return TrialBalance(tuple(lines), tuple(totals))
