"""One moment of the whole ledger, to be read in many queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from ledger.database_url import DatabaseUrl


@contextmanager
def snapshot(url: str) -> Iterator[psycopg.Connection]:
    """A connection that writes nothing and sees the ledger as it stood when it was opened. Raises psycopg.Error."""
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.read_only = True
        # Before there is a snapshot: a month that leaves meanwhile is either there, or said to have gone.
        conn.execute("LOCK TABLE journals, entries IN ACCESS SHARE MODE")
        yield conn
