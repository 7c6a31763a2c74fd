"""Every named query is one PostgreSQL understands, with types it can tell."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from ledger.sql import load

FILES = sorted(file.name for file in files("realtime.sql").iterdir() if file.name.endswith(".sql"))


@pytest.mark.parametrize("file", FILES)
async def test_every_query_can_be_prepared(db: Any, file: str) -> None:
    broken: dict[str, str] = {}
    for name, query in load("realtime.sql", file).items():
        try:
            await db.prepare(query)
        except Exception as error:
            broken[name] = str(error)
    assert broken == {}


@pytest.mark.parametrize("file", FILES)
async def test_no_query_looks_for_rows_by_a_clock_that_is_read_for_each_of_them(db: Any, file: str) -> None:
    """Such a condition uses no index, and in a long scan means another time in the end than in the beginning."""
    await db.execute("SET plan_cache_mode = force_generic_plan")
    by_the_row: dict[str, str] = {}
    for name, query in load("realtime.sql", file).items():
        await db.execute(f"PREPARE {name} AS {query}")
        given = ", ".join(["NULL"] * len((await db.prepare(query)).get_parameters()))
        for row in await db.fetch(f"EXPLAIN EXECUTE {name}" + (f" ({given})" if given else "")):
            line = row["QUERY PLAN"]
            if "Filter: " in line and ("clock_timestamp()" in line or "meter_now()" in line):
                by_the_row[name] = line.strip()
    assert by_the_row == {}
