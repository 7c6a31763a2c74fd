"""Months taken out of the ledger: what goes, and what stays as it was."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import asyncpg
import psycopg
import pytest
from psycopg import sql

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, Leg, Outcome, TransactionType
from ledger.verify import verify
from tests.servers import ROOT

LAST_MONTH = datetime.now(UTC).replace(day=1) - timedelta(days=1)
NEXT_MONTH = datetime.now(UTC).replace(day=1) + timedelta(days=40)


@pytest.fixture
def aged_url(database_url: str) -> str:
    """A ledger with a partition for last month, and in it a grant of 50 tokens."""
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        first, after = (
            conn.execute("SELECT ledger_id_at(date_trunc('month', %s::timestamptz, 'UTC'))", [at]).fetchone()
            for at in (LAST_MONTH, datetime.now(UTC))
        )
        assert first is not None
        assert after is not None
        for table in ("journals", "entries"):
            name = f"{table}_{LAST_MONTH:%Y_%m}"
            conn.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                    sql.Identifier(name), sql.Identifier(table), first[0], after[0]
                )
            )
            conn.execute("SELECT ledger_guard_table(%s::regclass, %s)", [name, table])
        conn.execute("SELECT ledger_ensure_accounts('{ann}', '{wallet}')")
        conn.execute("INSERT INTO journals (id, type, idempotency_key) VALUES (%s, 'grant', 'old')", [first[0] + 1])
        conn.execute(
            "INSERT INTO entries (journal_id, account_id, amount)"
            " SELECT %s, id, CASE kind WHEN 'wallet' THEN -50 ELSE 50 END FROM accounts"
            " WHERE kind IN ('wallet', 'granted_tokens') ORDER BY id",
            [first[0] + 1],
        )
    assert verify(database_url).findings == ()
    return database_url


def detach(url: str, month: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ledger", "detach", month],
        check=False, cwd=ROOT, env={"PATH": "", "DATABASE_URL": url}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


async def test_a_detached_months_keys_balances_and_proof_stay(aged_url: str, db: asyncpg.Connection) -> None:
    done = detach(aged_url, f"{LAST_MONTH:%Y-%m}")
    assert done.returncode == 0, done.stderr
    assert f"journals_{LAST_MONTH:%Y_%m}, entries_{LAST_MONTH:%Y_%m}" in done.stdout
    verdict = verify(aged_url)
    assert verdict.findings == ()
    assert (verdict.journals, verdict.entries) == (0, 0)
    [wallet] = await store.ensure_accounts(db, [("ann", "wallet")])
    granted = await store.platform_account(db, "granted_tokens")
    legs = (Leg(granted, 50), Leg(wallet, -50))
    again, new = await store.post(
        db,
        [Journal("old", TransactionType.GRANT, legs), Journal("new", TransactionType.GRANT, legs)],
        actor="test",
    )
    assert again.outcome in {Outcome.DUPLICATE, Outcome.KEY_REUSED}, "the key of a detached journal refuses a repeat"
    assert new.outcome is Outcome.POSTED
    assert [(leg.balance, leg.version) for leg in new.legs if leg.account_id == wallet] == [(100, 2)]
    assert verify(aged_url).findings == ()
    assert "no partition" in detach(aged_url, f"{LAST_MONTH:%Y-%m}").stderr


@pytest.mark.parametrize(
    ("month", "why"),
    [
        (f"{datetime.now(UTC):%Y-%m}", "not over"),
        (f"{NEXT_MONTH:%Y-%m}", "not over"),
        ("2020-02", "no partition"),
        ("May", "not a month"),
    ],
)
def test_a_month_that_cannot_be_detached_is_refused_in_one_line(aged_url: str, month: str, why: str) -> None:
    done = detach(aged_url, month)
    assert done.returncode in {1, 2}
    assert why in done.stderr.splitlines()[-1]
    assert verify(aged_url).findings == ()
