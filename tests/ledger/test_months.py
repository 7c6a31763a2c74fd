"""An old month leaves the ledger's tables; what it says of money and of repeats stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest

from ledger import store
from ledger.__main__ import main
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, Outcome, TransactionType, credit, debit
from ledger.verify import prove, verify
from tests.ledger import busy
from tests.ledger.tamperings import BY_HAND

ACCOUNTS = "SELECT id, balance, version, last_journal_id FROM accounts ORDER BY id"
TABLES = "SELECT table_name FROM detached_partitions ORDER BY table_name DESC"


async def test_the_command_takes_a_month_out_and_leaves_accounts_as_they_are_and_a_ledger_that_is_proved(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await busy.fill(database_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg(), autocommit=True) as conn:
        accounts = conn.execute(ACCOUNTS).fetchall()
        month = f"{busy.old_month(conn):%Y-%m}"
        assert main(["detach", month]) == 0
        journals, entries = (name for (name,) in conn.execute(TABLES))
        assert capsys.readouterr().out == f"detached: {month} is in {journals} and {entries} from now on\n"
        assert conn.execute(ACCOUNTS).fetchall() == accounts
        assert conn.execute("SELECT idempotency_key FROM journals").fetchall() == [("by hand",)]
        assert conn.execute(f"SELECT count(*) FROM {journals}").fetchall() == [(10,)]
        assert conn.execute(f"SELECT count(*) FROM {entries}").fetchall() == [(32,)]
        assert conn.execute("SELECT subject FROM financial_audit_log WHERE action = 'detach'").fetchall() == [(month,)]
        for change in (
            f"DELETE FROM {entries}",
            f"INSERT INTO {journals} (idempotency_key, type) VALUES ('x', 'grant')",
        ):
            with pytest.raises(psycopg.DatabaseError) as refused:
                conn.execute(change)
            assert refused.value.sqlstate == "LG010"
    verdict = verify(database_url)
    assert (verdict.findings, verdict.journals) == ((), 1)


async def test_a_key_of_a_detached_month_still_answers_duplicate_or_key_reused_and_posting_goes_on(
    database_url: str, db: asyncpg.Connection
) -> None:
    await busy.fill(database_url)
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        busy.detach(conn)
    wallet = await store.account_id(db, "ann", "wallet")
    assert wallet is not None
    granted = await store.platform_account(db, "granted_tokens")
    held = await store.balance(db, "ann", "wallet")

    def grant(key: str, tokens: int) -> Journal:
        legs = (debit(granted, tokens), credit(wallet, tokens))
        return Journal(key, TransactionType.GRANT, legs, {"reason": 'a "start"\n'})

    repeat, reused, fresh = await store.post(
        db, [grant("grant:ann", 100), grant("grant:ann", 101), grant("fresh", 5)], actor="test"
    )
    assert (repeat.outcome, reused.outcome, fresh.outcome) == (Outcome.DUPLICATE, Outcome.KEY_REUSED, Outcome.POSTED)
    original = await db.fetchval("SELECT journal_id FROM journal_keys WHERE idempotency_key = 'grant:ann'")
    assert repeat.journal_id == original
    assert [(leg.balance, leg.version) for leg in repeat.legs] == [(None, None)] * 2
    assert (fresh.legs[1].balance, fresh.legs[1].version) == (held.balance + 5, held.version + 1)
    assert verify(database_url).findings == ()


async def test_a_balance_at_a_time_is_right_beside_detached_months_or_refused(
    database_url: str, db: asyncpg.Connection
) -> None:
    await busy.fill(database_url)
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        month = busy.old_month(conn)
    owners = [("ann", "wallet"), ("bob", "wallet"), ("cat", "receivable"), ("dan", "wallet")]
    ann, bob, owed, dan = await store.ensure_accounts(db, owners)
    granted = await store.platform_account(db, "granted_tokens")
    grant = Journal("grant:dan", TransactionType.GRANT, (debit(granted, 3), credit(dan, 3)))
    await store.post(db, [grant], actor="test")

    now = datetime.now(UTC) + timedelta(minutes=1)
    ended = datetime(month.year, month.month, 28, tzinfo=UTC) + timedelta(days=4)
    ended = ended.replace(day=1)
    last = await db.fetchval("SELECT ledger_time(last_journal_id) FROM accounts WHERE id = $1", ann)
    before = datetime(month.year, month.month, 1, tzinfo=UTC)
    times = (before, last - timedelta(milliseconds=1), last, ended, now)
    everybody = (ann, bob, owed, dan, 999_999)
    known = {(who, at): await store.balance_at(db, who, at) for who in everybody for at in times}
    assert known[ann, now] == known[ann, last] == await store.balance(db, "ann", "wallet")
    assert known[bob, ended] != known[bob, now] == await store.balance(db, "bob", "wallet")

    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        busy.detach(conn)
    refused = set()
    for (who, at), statement in known.items():
        try:
            assert await store.balance_at(db, who, at) == statement
        except store.MonthDetached:
            refused.add((who, at))
    # bob has an entry of this month: what he held in the old one went with it, to its end.
    assert refused >= {(bob, before), (bob, last), (ann, before), (owed, before)}
    assert all(at < ended for _, at in refused)
    assert refused.isdisjoint({(ann, last), (dan, before), (dan, last), (999_999, before)})


def executed(plan: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The partitions of entries that a plan read, and how often; not those that it never executed."""
    if plan.get("Relation Name", "").startswith("entries") and plan["Actual Loops"]:
        yield plan["Relation Name"], plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from executed(part)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_balance_at_a_time_is_one_probe_and_older_and_newer_months_are_never_executed(
    database_url: str, db: asyncpg.Connection, mode: str
) -> None:
    await busy.fill(database_url)
    bob, ann = await store.ensure_accounts(db, [("bob", "wallet"), ("ann", "wallet")])
    this, old = [
        "entries" + await db.fetchval(f"SELECT to_char({month}, '_YYYY_MM')")
        for month in ("now() AT TIME ZONE 'UTC'", busy.OLD_MONTH)
    ]
    await db.execute(f"SET plan_cache_mode = {mode}; PREPARE read (bigint, timestamptz) AS {store.SQL['balance_at']}")

    async def read(account: int, at: str) -> list[tuple[str, int]]:
        rows = await db.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE read ({account}, {at})")
        (explained,) = json.loads(rows)
        assert "entries" in str(explained)
        return list(executed(explained["Plan"]))

    assert await read(bob, "now()") == [(this, 1)]
    last = f"{busy.OLD_MONTH} AT TIME ZONE 'UTC' + interval '1 month' - interval '1 ms'"
    assert await read(ann, last) == [(old, 1)]
    # ann did nothing in this month and the last, which nobody made: a probe for each, and one that finds.
    assert await read(ann, "now()") == [(old, 1), (this, 1), ("entries_default", 1)]


@pytest.mark.parametrize(
    ("month", "sqlstate"),
    [
        ("now() AT TIME ZONE 'UTC'", "LG014"),
        ("now() AT TIME ZONE 'UTC' + interval '1 month'", "LG014"),
        ("'infinity'", "LG014"),
        ("date '2019-03-31'", "LG015"),
        (f"{busy.OLD_MONTH} - interval '1 day'", "LG015"),
        ("NULL", "LG015"),
    ],
    ids=["current", "future", "never", "before the ledger", "not made", "none"],
)
def test_a_month_that_is_not_over_or_not_there_is_refused(
    busy_ledger: psycopg.Connection, month: str, sqlstate: str
) -> None:
    with pytest.raises(psycopg.DatabaseError) as refused, busy_ledger.transaction():
        busy_ledger.execute(f"SELECT ledger_detach_month(({month})::date)")
    assert refused.value.sqlstate == sqlstate
    assert busy_ledger.execute(TABLES).fetchall() == []


def test_a_month_is_detached_once(busy_ledger: psycopg.Connection) -> None:
    busy.detach(busy_ledger)
    with pytest.raises(psycopg.DatabaseError) as refused, busy_ledger.transaction():
        busy.detach(busy_ledger)
    assert refused.value.sqlstate == "LG015"
    assert prove(busy_ledger).findings == ()


def test_a_month_waits_for_the_older_journals_to_be_detached(busy_ledger: psycopg.Connection) -> None:
    # By hand and in the default partition: its month was never made.
    busy_ledger.execute(
        "INSERT INTO journals (id, idempotency_key, type) VALUES (ledger_id_at('2021-05-06'), 'older', 'grant')"
    )
    with pytest.raises(psycopg.DatabaseError, match="the first of 2021-05") as refused, busy_ledger.transaction():
        busy.detach(busy_ledger)
    assert refused.value.sqlstate == "LG016"
    assert busy_ledger.execute(TABLES).fetchall() == []


def test_the_command_gives_up_rather_than_stop_a_reader_and_changes_nothing(
    busy_ledger_url: str,
    busy_ledger: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", busy_ledger_url)
    busy_ledger.execute(f"SELECT {BY_HAND}")
    assert main(["detach", f"{busy.old_month(busy_ledger):%Y-%m}"]) == 1
    assert capsys.readouterr().err.startswith("ledger: the ledger's tables are in use")
    assert busy_ledger.execute(TABLES).fetchall() == []


def test_the_command_says_in_a_line_why_a_month_stays(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["detach", "2020-02"]) == 1
    assert capsys.readouterr().err == (
        "ledger: month 2020-02 is not there: it has no partition, or is detached already\n"
    )
    with pytest.raises(SystemExit):
        main(["detach", str(date(2020, 2, 1))])
    assert capsys.readouterr().err.endswith("'2020-02-01' is no month: YYYY-MM\n")
