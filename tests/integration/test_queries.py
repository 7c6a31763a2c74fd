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
