"""Old months out of the ledger's two big tables; `ledger_detach_month` decides and does it (see migration 0006)."""

from __future__ import annotations

from datetime import date

import psycopg

from ledger.database_url import DatabaseUrl
from ledger.sql import load

SQL = load("ledger.sql", "months.sql")


class MonthStays(Exception):
    """A month was not detached, and nothing has changed; says why."""


def detach(url: str, month: date) -> list[str]:
    """Detaches the month this day (UTC) lies in; answers the tables that hold it from now on. Raises MonthStays."""
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        try:
            row = conn.execute(SQL["detach_month"], {"month": month}).fetchone()
        except psycopg.errors.LockNotAvailable:
            raise MonthStays("the ledger's tables are in use for longer than may be waited here; try again") from None
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith("LG"):
                raise MonthStays(error.diag.message_primary) from None
            raise
    assert row is not None
    tables: list[str] = row[0]
    return tables
