"""What the models of queries share: rows out, and times."""

from __future__ import annotations

from datetime import timedelta

from tests.simulation.database import Row

FINISHED = ("succeeded", "failed")
"""A purchase's last states."""


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def found(*rows: Row | None) -> list[Row]:
    return [dict(row) for row in rows if row is not None]
