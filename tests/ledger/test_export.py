"""The export, read by programs that are not ours: they accept it, and come to the same balances."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import psycopg
import pytest
from beancount import loader
from beancount.core.data import Open, Transaction

from ledger.database_url import DatabaseUrl
from ledger.export import export
from tests.ledger import busy
from tests.ledger.busy import AWKWARD_KEY, AWKWARD_OWNER
from tests.servers import ROOT

Balances = dict[tuple[int, str], int]


def balances_of(url: str) -> Balances:
    """By account number and unit, debit positive, of the accounts that hold anything."""
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        rows = conn.execute(
            "SELECT id, unit::text, CASE WHEN type IN ('asset', 'expense') THEN balance ELSE -balance END FROM accounts"
        )
        return {(number, unit): balance for number, unit, balance in rows if balance}


def written(url: str, form: str, to: Path) -> Path:
    file = to / f"ledger.{form}"
    file.write_bytes(b"".join(export(url, form)))
    return file


def test_beancount_accepts_the_export_and_comes_to_our_balances(busy_ledger_url: str, tmp_path: Path) -> None:
    file = written(busy_ledger_url, "beancount", tmp_path)
    check = [Path(sys.executable).parent / "bean-check", "--no-cache", file]
    assert subprocess.run(check, capture_output=True, text=True, check=True).stderr == ""
    theirs: defaultdict[tuple[int, str], int] = defaultdict(int)
    entries, errors, _ = loader.load_file(str(file))
    assert not errors
    for transaction in (entry for entry in entries if isinstance(entry, Transaction)):
        for posting in transaction.postings:
            theirs[int(posting.account.rsplit(":")[-1]), posting.units.currency] += int(posting.units.number)
    assert {account: balance for account, balance in theirs.items() if balance} == balances_of(busy_ledger_url)


def test_beancount_reads_owners_keys_and_details_as_they_are(busy_ledger_url: str, tmp_path: Path) -> None:
    entries, _, _ = loader.load_file(str(written(busy_ledger_url, "beancount", tmp_path)))
    owners = {entry.meta.get("owner") for entry in entries if isinstance(entry, Open)}
    assert owners == {None, "ann", "bob", "cat", AWKWARD_OWNER}
    [awkward] = [e for e in entries if isinstance(e, Transaction) and e.narration == AWKWARD_KEY]
    assert (awkward.payee, json.loads(awkward.meta["details"])) == ("purchase", {"note": AWKWARD_KEY})


def test_beancount_refuses_an_export_of_a_balance_that_is_not_its_entries(busy_ledger_url: str, tmp_path: Path) -> None:
    file = written(busy_ledger_url, "beancount", tmp_path)
    wrong, changed = re.subn(r"(balance Expenses:GrantedTokens:\d+  )157", r"\g<1>158", file.read_text())
    assert changed == 1
    file.write_text(wrong)
    _, errors, _ = loader.load_file(str(file))
    assert len(errors) == 1


@pytest.fixture(scope="session")
def hledger() -> str:
    if found := shutil.which("hledger"):
        return found
    reason = "hledger (a Debian package) is not on this machine: its opinion of the export cannot be had"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run_hledger(hledger: str, file: Path, *command: str) -> str:
    env = {"LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    ran = subprocess.run([hledger, *command, "-f", file], capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_hledger_accepts_every_running_balance_and_comes_to_our_balances(
    busy_ledger_url: str, tmp_path: Path, hledger: str
) -> None:
    file = written(busy_ledger_url, "hledger", tmp_path)
    run_hledger(hledger, file, "check", "--strict", "ordereddates")
    theirs = {}
    for line in csv.DictReader(io.StringIO(run_hledger(hledger, file, "balance", "--flat", "-O", "csv"))):
        for amount in line["balance"].split(", "):
            if line["account"] != "total" and (parsed := re.fullmatch(r'(-?\d+)\.? "?(\w+)"?', amount)):
                theirs[int(line["account"].rsplit(":")[-1]), parsed[2]] = int(parsed[1])
    assert theirs == balances_of(busy_ledger_url)


def test_hledger_refuses_a_running_balance_that_is_wrong(busy_ledger_url: str, tmp_path: Path, hledger: str) -> None:
    file = written(busy_ledger_url, "hledger", tmp_path)
    wrong, changed = re.subn(r'= 157 "TOKEN"', '= 158 "TOKEN"', file.read_text())
    assert changed == 1
    file.write_text(wrong)
    with pytest.raises(AssertionError, match="balance assertion"):
        run_hledger(hledger, file, "check")


def test_csv_has_every_entry_as_it_is(busy_ledger_url: str) -> None:
    text = b"".join(export(busy_ledger_url, "csv")).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 34
    sums: defaultdict[tuple[int, str], int] = defaultdict(int)
    for row in rows:
        sums[int(row["account_id"]), row["unit"]] += int(row["amount"])
    assert {account: total for account, total in sums.items() if total} == balances_of(busy_ledger_url)
    [awkward] = [row for row in rows if row["idempotency_key"] == AWKWARD_KEY and row["kind"] == "wallet"]
    assert (awkward["owner_id"], json.loads(awkward["details"])) == (AWKWARD_OWNER, {"note": AWKWARD_KEY})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", awkward["created_at"])


async def test_what_accounts_brought_from_detached_months_is_their_opening_balance(
    database_url: str, tmp_path: Path, hledger: str
) -> None:
    await busy.fill(database_url)
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        busy.detach(conn)
    file = written(database_url, "beancount", tmp_path)
    assert "opening balances" in file.read_text()
    assert loader.load_file(str(file))[1] == []  # which has a balance of every account
    run_hledger(hledger, written(database_url, "hledger", tmp_path), "check", "--strict")


def test_an_empty_ledger_is_exported_too(database_url: str, tmp_path: Path, hledger: str) -> None:
    file = written(database_url, "beancount", tmp_path)
    assert loader.load_file(str(file))[1] == []
    run_hledger(hledger, written(database_url, "hledger", tmp_path), "check", "--strict")
    assert b"".join(export(database_url, "csv")).count(b"\n") == 1


def test_the_command_writes_to_a_pipe_and_stops_quietly_when_nobody_reads_on(busy_ledger_url: str) -> None:
    command = [sys.executable, "-m", "ledger", "export", "--format", "hledger"]
    env = {"DATABASE_URL": busy_ledger_url}
    whole = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True)
    assert whole.stdout == b"".join(export(busy_ledger_url, "hledger"))
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
