"""Reads of a large ledger: balances, a page of history and a balance at a time, each with its plan.

The ledger is made by set-based SQL with triggers off, in a database of its own: journals of 2 entries, each a grant to
one of 1,000 wallets in turn, spread over twelve months' partitions. The platform's account of granted tokens has half
of all entries, a wallet a two-thousandth. Balances and versions are right; idempotency keys and the audit log, which no
read here looks at, are left out. Keyset pages start at the newest entry or at a random one ("deep"); balances at a time
are at random ones of the year. One connection, one query at a time, as `ledger.store` asks them.

Each is measured twice: "settled", with the plan that the server has chosen for the prepared statement after some
executions, and "first", with a plan made for the values, as the first five executions of a connection run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ledger import store
from ledger.database_url import DatabaseUrl
from scripts.benchmarks.harness import postgres
from scripts.benchmarks.harness.latency import percentiles_ms

ENTRIES = 10_000_000
WALLETS = 1_000
TOKENS = 10
MONTHS = 12
PLANS = {"settled": "auto", "first": "force_custom_plan"}
SETTLED_AFTER = 10
PAGE = 50
JOURNALS_AT_ONCE = 100_000
# Tables, indexes and what the server logs of them.
DISK_BYTES_AN_ENTRY = 800

# $1 and $2: the first journal's number and the one after the last; $3: the first millisecond; $4: milliseconds of all;
# $5: journals of all. Numbers start at 0.
JOURNAL_ID = "((($3::bigint + n * $4::bigint / $5::bigint) << 22) | (n & 4194303))"
JOURNALS = f"""
INSERT INTO journals (id, type, entry_count, idempotency_key, content_hash)
SELECT {JOURNAL_ID}, 'grant', 2, 'benchmark:' || n, '\\x00' FROM generate_series($1::bigint, $2::bigint - 1) AS n
"""
# $6: the platform's account; $7: the wallets; $8: tokens.
LEDGER_ENTRIES = f"""
INSERT INTO entries (journal_id, account_id, amount, balance_after, version)
SELECT {JOURNAL_ID}, e.*
FROM generate_series($1::bigint, $2::bigint - 1) AS n, LATERAL (VALUES
    ($6::bigint, $8::bigint, $8 * (n + 1), n + 1),
    (($7::bigint[])[n % cardinality($7) + 1], -$8, $8 * (n / cardinality($7) + 1), n / cardinality($7) + 1)
) AS e
"""
BALANCES = """
UPDATE accounts a SET balance = e.balance_after, version = e.version, last_journal_id = e.journal_id
FROM accounts b, LATERAL (
    SELECT * FROM entries WHERE account_id = b.id ORDER BY journal_id DESC LIMIT 1
) e
WHERE a.id = b.id
"""
INDEX = "CREATE UNIQUE INDEX entries_account_journal ON entries (account_id, journal_id)"


class Span(NamedTuple):
    first_ms: int
    length_ms: int
    journals: int

    def journal_id(self, number: int) -> int:
        return (self.first_ms + number * self.length_ms // self.journals) << 22 | number & 4194303


@dataclass(frozen=True, slots=True)
class Filled:
    """What the database holds, as the reads need it."""

    wallets: list[int]
    platform: int
    start: datetime
    span: Span

    def a_wallet(self, chance: random.Random) -> int:
        return self.wallets[chance.randrange(min(WALLETS, self.span.journals))]

    def a_time(self, chance: random.Random) -> datetime:
        return self.start + timedelta(milliseconds=chance.randrange(self.span.length_ms))

    def a_journal(self, chance: random.Random) -> int:
        return self.span.journal_id(chance.randrange(self.span.journals))


class Read(NamedTuple):
    name: str
    query: str
    arguments: Callable[[random.Random], tuple[Any, ...]]


def arguments(parser: argparse.ArgumentParser) -> None:
    postgres.arguments(parser)
    parser.add_argument("--entries", type=int, default=ENTRIES, help="2 a journal (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="for each read and plan (default: %(default)s)")


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    postgres.DATA.mkdir(exist_ok=True)
    wanted, free = options.entries * DISK_BYTES_AN_ENTRY, shutil.disk_usage(postgres.DATA).free
    if not options.database_url and free < wanted:
        raise SystemExit(
            f"bench: {options.entries:,} entries want {wanted >> 20:,} MiB of disk, {free >> 20:,} are free"
        )
    with postgres.server(options.database_url) as server_url, postgres.database(server_url) as url:
        figures: dict[str, Any] = {"server": postgres.settings(server_url), "entries": options.entries // 2 * 2}
        figures |= uvloop.run(measure(url, options, console))
    show(figures, console)
    return figures


async def measure(url: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    connect = DatabaseUrl.parse(url).for_asyncpg()
    connections = [await asyncpg.connect(**connect) for _ in range(2)]
    try:
        started = time.perf_counter()
        filled = await fill(connections, options.entries // 2, console)
        load_s = round(time.perf_counter() - started, 1)
        conn = connections[0]
        tables = await conn.fetchval("SELECT sum(pg_table_size(relid)) FROM pg_partition_tree('entries')")
        indexes = await conn.fetchval("SELECT sum(pg_indexes_size(relid)) FROM pg_partition_tree('entries')")
        found = [await rate(conn, read, options.seconds) for read in reads(filled)]
        return {
            "load_s": load_s,
            "entries_mib": {"table": int(tables) >> 20, "indexes": int(indexes) >> 20},
            "reads": found,
        }
    finally:
        for connection in connections:
            await connection.close()


# -- filling ---------------------------------------------------------------------------------------------------------


async def fill(connections: Sequence[asyncpg.Connection], journals: int, console: Console) -> Filled:
    """Journals on one connection beside their entries on another; the index of histories after all of them."""
    conn = connections[0]
    start = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + 1)
    await conn.execute("SELECT ledger_make_partitions($1)", MONTHS - 1)
    first_ms = await conn.fetchval("SELECT ledger_id_at($1) >> 22", start)
    span = Span(first_ms, int((end - start).total_seconds() * 1000), journals)
    wallets = await store.ensure_accounts(conn, [(f"user-{number}", "wallet") for number in range(WALLETS)])
    platform = await store.platform_account(conn, "granted_tokens")
    for connection in connections:
        await connection.execute("SET session_replication_role = replica; SET maintenance_work_mem = '512MB'")
    await conn.execute("DROP INDEX entries_account_journal")
    with Progress(console=console, transient=True) as progress:
        writing = progress.add_task("writing entries", total=journals)
        for number in range(0, journals, JOURNALS_AT_ONCE):
            after = min(journals, number + JOURNALS_AT_ONCE)
            await asyncio.gather(
                connections[0].execute(JOURNALS, number, after, *span),
                connections[1].execute(LEDGER_ENTRIES, number, after, *span, platform, wallets, TOKENS),
            )
            progress.update(writing, completed=after)
        finishing = progress.add_task("indexing, vacuuming", total=3)
        for statement in (INDEX, BALANCES, "VACUUM (ANALYZE) entries, journals, accounts"):
            await conn.execute(statement)
            progress.advance(finishing)
    await conn.execute("RESET session_replication_role")
    held = await conn.fetch("SELECT kind, sum(balance), sum(version) FROM accounts WHERE version > 0 GROUP BY kind")
    assert sorted(held) == [(kind, TOKENS * journals, journals) for kind in ("granted_tokens", "wallet")], held
    return Filled(wallets, platform, start, span)


# -- reading ---------------------------------------------------------------------------------------------------------


def reads(filled: Filled) -> list[Read]:
    newest = store.BIGINT_MAX
    wallet, at, journal = filled.a_wallet, filled.a_time, filled.a_journal
    return [
        Read("balance by primary key", "account", lambda chance: (wallet(chance),)),
        Read("balance by owner and kind", "balance", lambda chance: (f"user-{chance.randrange(WALLETS)}", "wallet")),
        Read("history of a wallet, newest", "history", lambda chance: (wallet(chance), newest, PAGE)),
        Read("history of a wallet, deep", "history", lambda chance: (wallet(chance), journal(chance), PAGE)),
        Read("history of the platform, newest", "history", lambda _: (filled.platform, newest, PAGE)),
        Read("history of the platform, deep", "history", lambda chance: (filled.platform, journal(chance), PAGE)),
        Read("balance of a wallet at a time", "balance_at", lambda chance: (wallet(chance), at(chance))),
        Read("balance of the platform at a time", "balance_at", lambda chance: (filled.platform, at(chance))),
    ]


async def ask(conn: asyncpg.Connection, query: str, arguments: tuple[Any, ...]) -> object:
    """The read as the project makes it."""
    match query:
        case "account":
            return await store.account(conn, *arguments)
        case "balance":
            return await store.balance(conn, *arguments)
        case "balance_at":
            return await store.balance_at(conn, *arguments)
        case _:
            account_id, before, limit = arguments
            return await store.history(conn, account_id, before=before, limit=limit)


async def rate(conn: asyncpg.Connection, read: Read, seconds: float) -> dict[str, Any]:
    """The latency of the read, in one query after the other, and its plan, settled and at first."""
    figures: dict[str, Any] = {"read": read.name}
    for name, mode in PLANS.items():
        await conn.execute(f"SET plan_cache_mode = {mode}")
        chance = random.Random(read.name)
        for _ in range(SETTLED_AFTER):
            await ask(conn, read.query, read.arguments(chance))
        durations: list[float] = []
        until = time.perf_counter() + seconds
        while not durations or time.perf_counter() < until:
            of = read.arguments(chance)
            started = time.perf_counter()
            answer = await ask(conn, read.query, of)
            durations.append(time.perf_counter() - started)
            assert answer is not None
        figures[name] = {
            "reads_per_s": round(len(durations) / sum(durations)),
            "ms": percentiles_ms(durations),
            "plan": await explained(conn, read, chance),
        }
    return figures


async def explained(conn: asyncpg.Connection, read: Read, chance: random.Random) -> str:
    """The plan the server runs the prepared read with by now, in the plan_cache_mode of the connection."""

    def values() -> str:
        return ", ".join(f"'{value}'" for value in read.arguments(chance))

    await conn.execute(f"PREPARE read AS {store.SQL[read.query]}")
    for _ in range(SETTLED_AFTER):
        await conn.execute(f"EXECUTE read ({values()})")
    rows = await conn.fetch(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE read ({values()})")
    await conn.execute("DEALLOCATE read")
    return "\n".join(row[0] for row in rows)


def show(figures: dict[str, Any], console: Console) -> None:
    for found in figures["reads"]:
        for name in PLANS:
            plan = found[name]["plan"]
            console.print(f"\n{found['read']}, {name}\n{plan}", highlight=False, markup=False, soft_wrap=True)
    size = figures["entries_mib"]
    console.print(
        f"\n{figures['entries']:,} entries written in {figures['load_s']} s: {size['table']:,} MiB, "
        f"their indexes {size['indexes']:,} MiB"
    )
    table = Table(title="reads, one at a time")
    for head in ("read", "plan", "reads/s", "p50 ms", "p90 ms", "p99 ms", "max ms"):
        table.add_column(head, justify="left" if head in {"read", "plan"} else "right")
    for found in figures["reads"]:
        for name in PLANS:
            of = found[name]
            table.add_row(found["read"], name, f"{of['reads_per_s']:,}", *(f"{ms:,.3f}" for ms in of["ms"].values()))
    console.print(table)
