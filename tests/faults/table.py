"""A pytest plugin: what the fault suite has seen, as one table after the tests.

A test says what it saw with `record_property("fault", {...})`, which reaches the table from whatever process ran it.
"""

from __future__ import annotations

from typing import Any

import pytest

COLUMNS = {
    "fault": "fault",
    "runs": "runs",
    "calls": "calls",
    "recovery_s": "recovery s",
    "latest_debit_s": "latest debit s",
    "lost": "tokens lost",
}

_seen: list[dict[str, Any]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _seen.extend(value for name, value in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _seen:
        return
    rows = [[_text(row.get(column, "")) for column in COLUMNS] for row in sorted(_seen, key=lambda row: row["fault"])]
    rows.insert(0, list(COLUMNS.values()))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    terminalreporter.section("faults")
    for row in rows:
        first, *numbers = (
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        terminalreporter.write_line("  ".join([first, *numbers]))


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
