"""Proves the ledger from its rows: everything that is derived is derived again, in a few queries over whole tables.

The queries are in `sql/verify.sql`, each with the invariant it tests as its name; they run on one snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row, tuple_row

from ledger.database_url import DatabaseUrl
from ledger.sql import load

SQL = load("ledger.sql", "verify.sql")
CHECKS = tuple(name for name in SQL if name != "summary")


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken invariant: `what` names the journal, account or audit row."""

    what: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} {self.problem}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read, and what was found wrong, in the order of the checks and then of ids."""

    accounts: int
    journals: int
    entries: int
    audit_rows: int
    findings: tuple[Finding, ...]


def verify(url: str, on_check: Callable[[str], None] = lambda name: None) -> Verdict:
    """Runs every check on one snapshot; `on_check` is told each check's name before it runs. Writes nothing."""
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.read_only = True
        # One pass over everything: the planner may sort and hash in memory, and estimates matter less than not looping.
        conn.execute("SET LOCAL work_mem = '256MB'")
        conn.execute("SET LOCAL enable_nestloop = off")
        findings: list[Finding] = []
        for name in CHECKS:
            on_check(name)
            findings += conn.cursor(row_factory=class_row(Finding)).execute(SQL[name]).fetchall()
        counts = conn.cursor(row_factory=tuple_row).execute(SQL["summary"]).fetchone()
        assert counts is not None
    accounts, journals, entries, audit_rows = counts
    return Verdict(accounts, journals, entries, audit_rows, tuple(findings))
