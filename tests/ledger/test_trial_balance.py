"""The trial balance: every kind of account, and both units even."""

from __future__ import annotations

import json

import psycopg
import pytest

from ledger.__main__ import main
from ledger.database_url import DatabaseUrl


def test_each_kind_stands_in_its_column_and_both_units_sum_to_zero(
    busy_ledger_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", busy_ledger_url)
    assert main(["trial-balance", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {
        line["kind"]: (line["unit"], line["accounts"], line["debit"], line["credit"]) for line in said["lines"]
    } == {
        "granted_tokens": ("TOKEN", 1, 157, 0),
        "tokens_issued": ("TOKEN", 1, 500, 0),
        "receivable": ("TOKEN", 1, 10, 0),
        "wallet": ("TOKEN", 4, 0, 617),
        "earnings": ("TOKEN", 4, 0, 40),
        "platform_revenue": ("TOKEN", 1, 0, 10),
        "stripe_clearing": ("USD_CENT", 1, 499, 0),
        "token_sales": ("USD_CENT", 1, 0, 499),
        "stripe_losses": ("USD_CENT", 1, 0, 0),
    }
    assert said["totals"] == [
        {"unit": "TOKEN", "debit": 667, "credit": 667},
        {"unit": "USD_CENT", "debit": 499, "credit": 499},
    ]


def test_the_table_is_whole_in_a_pipe_and_ends_each_unit_with_its_total(
    busy_ledger_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", busy_ledger_url)
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["trial-balance"]) == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["platform_revenue", "revenue", "TOKEN", "1", "", "10"] in rows
    assert [row[2:] for row in rows if row[0] == "total"] == [
        ["TOKEN", "", "667", "667"],
        ["USD_CENT", "", "499", "499"],
    ]


def test_a_unit_that_is_not_even_exits_1_and_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE accounts SET balance = 5 WHERE kind = 'granted_tokens'")
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["trial-balance", "--json"]) == 1
    assert capsys.readouterr().err == "ledger: debits and credits differ\n"
