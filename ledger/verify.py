"""Proves the ledger from its rows: everything that is derived is derived again, in a few queries over whole tables.

The queries are in `sql/verify.sql`, each with the invariant it tests as its name; they run on one snapshot, so a ledger
that is being posted to meanwhile is proved as it stood when they began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row, tuple_row

from ledger.snapshot import snapshot
from ledger.sql import load
from ledger.witness import Head

SQL = load("ledger.sql", "verify.sql")
CHECKS = tuple(name for name in SQL if name not in {"heads", "summary"})


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken invariant: `what` names the journal, account or audit row."""

    what: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} {self.problem}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read, where the audit streams end, and what was found wrong: by check, and then by id."""

    accounts: int
    journals: int
    entries: int
    audit_rows: int
    heads: tuple[Head, ...]
    findings: tuple[Finding, ...]


def verify(url: str, on_check: Callable[[str], None] = lambda name: None, witnessed: Sequence[Head] = ()) -> Verdict:
    """Runs every check on one snapshot; `on_check` is told each check's name before it runs. Writes nothing.

    `witnessed` are heads of an earlier verdict: the log must still lead through them.
    """
    with snapshot(url) as conn:
        return prove(conn, on_check, witnessed)


def prove(
    conn: psycopg.Connection, on_check: Callable[[str], None] = lambda name: None, witnessed: Sequence[Head] = ()
) -> Verdict:
    """As `verify`, on what the connection's transaction sees."""
    # One pass over everything: the planner may sort and hash in memory, and estimates matter less than not looping.
    conn.execute("SET LOCAL work_mem = '256MB'")
    conn.execute("SET LOCAL enable_nestloop = off")
    saw = {
        "streams": [head.stream for head in witnessed],
        "seqs": [head.seq for head in witnessed],
        "hashes": [head.hash for head in witnessed],
    }
    findings: list[Finding] = []
    for name in CHECKS:
        on_check(name)
        parameters = saw if name == "witnessed" else None
        findings += conn.cursor(row_factory=class_row(Finding)).execute(SQL[name], parameters).fetchall()
    heads = conn.cursor(row_factory=class_row(Head)).execute(SQL["heads"]).fetchall()
    counts = conn.cursor(row_factory=tuple_row).execute(SQL["summary"]).fetchone()
    assert counts is not None
    accounts, journals, entries, audit_rows = counts
    return Verdict(accounts, journals, entries, audit_rows, tuple(heads), tuple(findings))
