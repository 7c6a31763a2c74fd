"""The schema goes up and down whole, in any schema, by any number of processes at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import asyncpg
import psycopg
import pytest

from ledger import migrations
from ledger.__main__ import main
from ledger.database_url import DatabaseUrl
from ledger.verify import verify
from tests.ledger import busy
from tests.metering import grant
from tests.servers import free_port

LEFT_BEHIND = """
    SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = %(schema)s::regnamespace
    UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = %(schema)s::regnamespace
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
"""


def left_behind(url: str, schema: str) -> list[str]:
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        return [name for (name,) in conn.execute(LEFT_BEHIND, {"schema": schema})]


@pytest.mark.parametrize("query", ["options=-csearch_path%3Dapart", "search_path=apart"])
def test_down_removes_everything_and_up_works_again(empty_database_url: str, query: str) -> None:
    url = f"{empty_database_url}&{query}" if "?" in empty_database_url else f"{empty_database_url}?{query}"
    assert migrations.status(url).current is None
    assert migrations.up(url).pending == ()
    assert "relation entries" in left_behind(url, "apart")
    assert left_behind(url, "public") == []
    assert migrations.down(url).current is None
    assert left_behind(url, "apart") == []
    assert migrations.up(url).pending == ()


def test_processes_that_migrate_at_once_wait_for_each_other(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(migrations.up, [empty_database_url] * 4))
    assert {status.pending for status in statuses} == {()}


@pytest.mark.parametrize("direction", ["up", "down", "status"])
def test_a_server_that_does_not_answer_is_said_in_one_line(
    direction: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://anybody@127.0.0.1:{free_port()}/any")
    assert main(["migrate", direction]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ledger: PostgreSQL: connection failed:")


def test_down_on_a_database_never_migrated_changes_nothing(empty_database_url: str) -> None:
    assert migrations.down(empty_database_url).current is None
    assert left_behind(empty_database_url, "public") == []


@pytest.mark.parametrize("query", ["", "options=-csearch_path%3Dapart"])
async def test_down_removes_a_ledger_in_use_with_its_money_its_months_and_its_jobs(
    empty_database_url: str, query: str
) -> None:
    url = f"{empty_database_url}{'&' if '?' in empty_database_url else '?'}{query}" if query else empty_database_url
    schema = "apart" if query else "public"
    migrations.up(url)
    await busy.fill(url)
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        conn.execute("SELECT ledger_make_partitions(5)")
        busy.detach(conn)
        conn.execute(
            "SELECT procrastinate_defer_jobs_v1("
            "ARRAY[ROW('q', 't', 0, NULL, NULL, '{}', NULL)::procrastinate_job_to_defer_v1])"
        )
        conn.execute("INSERT INTO user_rates (user_id, rate_tokens_per_period) VALUES ('ann', 3)")
    assert migrations.down(url).current is None
    assert left_behind(url, schema) == []
    assert migrations.up(url).pending == ()
    await busy.fill(url)
    assert verify(url).findings == ()


async def test_audit_rows_written_before_and_after_they_named_their_journals_are_one_proved_chain(
    empty_database_url: str,
) -> None:
    migrations.up(empty_database_url, "0008")
    await busy.fill(empty_database_url)
    for revision in ("0009", "0008", "head"):
        (migrations.down if revision == "0008" else migrations.up)(empty_database_url, revision)
        conn = await asyncpg.connect(**DatabaseUrl.parse(empty_database_url).for_asyncpg())
        await grant(conn, "ann", 5, key=revision)
        await conn.close()
        assert verify(empty_database_url).findings == ()
