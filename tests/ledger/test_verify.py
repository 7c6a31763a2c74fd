"""`verify` names whatever somebody altered who could go past every trigger."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import witness
from ledger.__main__ import main
from ledger.database_url import DatabaseUrl
from ledger.verify import prove, verify
from tests.ledger.busy import detach
from tests.ledger.tamperings import (
    ALTERED,
    BOBS,
    BY_HAND,
    CHAIN_FROM,
    LAST,
    LAST_NAMED,
    MOVE_HEAD,
    NOT_ALTERED,
    REFUND,
    TAMPERED,
    WALLET,
    WALLET_NAMED,
)
from tests.servers import ROOT


def named(conn: psycopg.Connection, tampering: str, who: str, witnessed: Any = ()) -> tuple[str, list[str]]:
    """Who must be named, and who is, after the tampering."""
    row = conn.execute(who).fetchone()
    conn.execute("SET LOCAL session_replication_role = replica")
    conn.execute(tampering)
    row = row if row and row[0] else conn.execute(who).fetchone()
    assert row is not None
    return row[0], [finding.what for finding in prove(conn, witnessed=witnessed).findings]


EXCHANGED = (
    "CREATE TEMP TABLE two ON COMMIT DROP AS SELECT seq, journal_ids FROM financial_audit_log"
    " WHERE stream = 1 AND action = 'post' ORDER BY seq LIMIT 2;"
    "UPDATE financial_audit_log l SET journal_ids = o.journal_ids FROM two o"
    " WHERE l.stream = 1 AND l.seq IN (SELECT seq FROM two) AND l.seq <> o.seq"
)
"""The oldest two audit rows of postings are each said to be of the other's journals."""


def test_a_ledger_nobody_tampered_with_is_proved(busy_ledger: psycopg.Connection) -> None:
    verdict = prove(busy_ledger)
    assert verdict.findings == ()
    assert (verdict.journals, len(verdict.heads)) == (11, 2)


@pytest.mark.parametrize("column", ALTERED)
def test_an_altered_column_is_found_and_its_row_named(busy_ledger: psycopg.Connection, column: str) -> None:
    table, name = column.split(".")
    where, value, who = ALTERED[column]
    expected, found = named(busy_ledger, f"UPDATE {table} SET {name} = {value} WHERE {where}", who)
    assert expected in found


def test_no_column_is_left_out(busy_ledger: psycopg.Connection) -> None:
    columns = busy_ledger.execute(
        "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        " AND table_name IN ('accounts', 'journals', 'entries', 'financial_audit_log', 'audit_heads', 'journal_keys')"
    )
    assert {column for (column,) in columns} == ALTERED.keys() | NOT_ALTERED


@pytest.mark.parametrize("tampering", TAMPERED)
def test_a_tampering_is_found_and_named(busy_ledger: psycopg.Connection, tampering: str) -> None:
    expected, found = named(busy_ledger, *TAMPERED[tampering])
    assert expected in found


@pytest.mark.parametrize(
    "tampering",
    [
        f"UPDATE financial_audit_log SET actor = 'nobody' WHERE stream = 1 AND seq = {REFUND};{CHAIN_FROM};{MOVE_HEAD}",
        f"DELETE FROM financial_audit_log WHERE stream = 1 AND seq = {LAST};{MOVE_HEAD}",
    ],
    ids=["written anew", "cut off"],
)  # fmt: skip
def test_a_log_made_to_agree_with_itself_is_found_by_a_witness_only(
    busy_ledger: psycopg.Connection, tampering: str
) -> None:
    witnessed = prove(busy_ledger).heads
    expected, found = named(busy_ledger, tampering, LAST_NAMED, witnessed)
    assert found == [expected]
    assert prove(busy_ledger).findings == ()


def tamper(url: str, sql: str) -> None:
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(sql)


async def test_the_command_exits_1_and_names_the_row_first(database_url: str, busy_ledger_url: str) -> None:
    def run(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ledger", "verify"]
        return subprocess.run(command, cwd=ROOT, env={"DATABASE_URL": url}, capture_output=True, text=True, check=False)

    proved = run(busy_ledger_url)
    assert (proved.returncode, proved.stderr) == (0, "")
    assert proved.stdout == "ok: 15 accounts, 11 journals, 34 entries, 13 audit rows\n"
    tamper(database_url, "INSERT INTO journals (id, idempotency_key, type) VALUES (1, 'forged', 'grant')")
    broken = run(database_url)
    assert (broken.returncode, broken.stderr) == (1, "")
    assert broken.stdout.splitlines()[0] == "journal 1 has no entries"
    assert broken.stdout.splitlines()[-1].startswith("broken: 2 findings in ")


def test_a_witness_is_renewed_by_a_proof_and_kept_by_a_failure(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    file = tmp_path / "witness.json"
    command = ["verify", "--witness", str(file)]
    assert main(command) == 0
    assert witness.read(file) == verify(database_url).heads != ()
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        conn.execute("SELECT ledger_audit('root', 'note', 'first', '{}'), ledger_audit('root', 'note', 'second', '{}')")
    assert main(command) == 0
    seen = file.read_text()
    tamper(
        database_url, f"UPDATE financial_audit_log SET actor = 'eve' WHERE subject = 'first'; {CHAIN_FROM}; {MOVE_HEAD}"
    )
    assert main(["verify"]) == 0
    capsys.readouterr()
    assert main(command) == 1
    assert capsys.readouterr().out.splitlines()[0] == "audit row 1/3 is not the one the witness saw"
    assert file.read_text() == seen


@pytest.mark.parametrize(
    "content", ["", "[]", '{"heads": [{"stream": 1}]}', '{"heads": [{"stream": 1, "seq": 1, "hash": "x"}]}']
)
def test_a_file_that_is_no_witness_is_refused_in_one_line(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    file = tmp_path / "witness.json"
    file.write_text(content)
    assert main(["verify", "--witness", str(file)]) == 1
    assert capsys.readouterr().err == f"ledger: {file} is not a witness of this ledger's\n"
    assert file.read_text() == content


def test_what_remains_when_months_are_detached_is_still_proved(busy_ledger: psycopg.Connection) -> None:
    detach(busy_ledger)
    assert prove(busy_ledger).findings == ()


@pytest.mark.parametrize(
    ("tampering", "who"),
    [
        (f"UPDATE accounts SET balance = balance + 1 WHERE id = {BOBS}", f"SELECT 'account ' || {BOBS}"),
        (
            f"UPDATE entries SET balance_after = balance_after + 1 WHERE account_id = {BOBS}",
            f"SELECT 'account ' || {BOBS}",
        ),
        (f"UPDATE accounts SET balance = balance + 1 WHERE id = {WALLET}", "SELECT 'unit TOKEN'"),
        (f"UPDATE accounts SET version = 0 WHERE id = {WALLET}", WALLET_NAMED),
        (f"UPDATE accounts SET last_journal_id = {BY_HAND} WHERE id = {WALLET}", WALLET_NAMED),
        (
            "DELETE FROM journal_keys WHERE idempotency_key = 'call:1:1'",
            "SELECT 'journal ' || journal_id FROM journal_keys WHERE idempotency_key = 'call:1:1'",
        ),
        (
            EXCHANGED,
            "SELECT 'audit row 1/' || min(seq) FROM financial_audit_log WHERE stream = 1 AND action = 'post'",
        ),
    ],
    ids=[
        "balance",
        "running balance",
        "balance of the gone",
        "version of the gone",
        "last journal of the gone",
        "key",
        "journals that two audit rows record",
    ],
)
def test_a_tampering_with_what_remains_of_detached_months_is_named(
    busy_ledger: psycopg.Connection, tampering: str, who: str
) -> None:
    detach(busy_ledger)
    expected, found = named(busy_ledger, tampering, who)
    assert expected in found
