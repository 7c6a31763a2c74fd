"""Metering: how many due calls a second several meters bill, and so how many calls one database carries.

Every call is active and due. Meters take batches of them, each one `bill_calls` in one statement (select
what is due, debit, advance the call's clock, answer), as `realtime.services.metering` does, until nothing is due; then
the meters' clock moves on by a period and all are due again. Nothing is pushed to anybody: this is the database's
share, with the client's decoding of its answers. The meters of a cell share one Python process.

A call is billed once a minute, so a database that bills N calls a second carries N × 60 calls at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, TransactionType, credit, debit
from realtime.adapters import calls_store
from realtime.adapters.identifiers import new_id
from realtime.services.metering import BATCH
from scripts.benchmarks.harness import postgres
from scripts.benchmarks.harness.latency import percentiles_ms

BATCHES = (1, 100, BATCH, 2_000)
METERS = (1, 2, 4)
CALLS = 5_000
PERIOD_S = 60
FUNDS = 10**12
FUNDED_AT_ONCE = 1_000

# The meters' clock stands still until the benchmark moves it.
CLOCK = """
CREATE TABLE benchmark_clock (at timestamptz NOT NULL);
CREATE OR REPLACE FUNCTION meter_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT at FROM benchmark_clock';
"""

ACTIVE_CALLS = """
INSERT INTO calls (id, caller_id, callee_id, request_id, status, rate_tokens_per_period, fee_tokens_per_period,
    fee_percent, period_seconds, grace_seconds, refund_unused_seconds, caller_wallet_id, callee_earnings_id,
    created_at, ring_expires_at, started_at, paid_through)
SELECT id, caller, callee, 'benchmark', 'active', 10, 2, 20, $6, 10, false, wallet, earnings, $7, $7, $7, $7
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS c(id, caller, callee, wallet, earnings)
"""

LIVE_PARTIES = """
INSERT INTO live_parties (user_id, call_id) SELECT caller_id, id FROM calls UNION ALL SELECT callee_id, id FROM calls
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    postgres.arguments(parser)
    parser.add_argument("--calls", type=int, default=CALLS, help="active at a time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="for each cell (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="calls a batch (default: all)")
    parser.add_argument("--meters", type=int, nargs="+", default=METERS, help="connections (default: all)")


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    with postgres.server(options.database_url) as server_url, postgres.database(server_url) as url:
        figures: dict[str, Any] = {"server": postgres.settings(server_url), "calls": options.calls}
        figures["cells"] = uvloop.run(measure(url, options, console))
    figures["best"] = max(figures["cells"], key=lambda cell: cell["calls_per_s"])
    figures["calls_per_s"] = figures["best"]["calls_per_s"]
    figures["concurrent_calls"] = figures["calls_per_s"] * PERIOD_S
    show(figures, console)
    return figures


async def measure(url: str, options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    connect = DatabaseUrl.parse(url).for_asyncpg()
    connections = [await asyncpg.connect(**connect) for _ in range(max(options.meters))]
    try:
        meters = Meters(connections)
        await meters.start(options.calls)
        cells = [(batch, several) for batch in options.batches for several in options.meters]
        return [
            await meters.rate(batch, several, options.seconds)
            for batch, several in track(cells, description="metering", console=console, transient=True)
        ]
    finally:
        for connection in connections:
            await connection.close()


class Meters:
    """Meters on one database, and the clock they go by."""

    def __init__(self, connections: Sequence[asyncpg.Connection]) -> None:
        self._connections = connections
        self._now = datetime.now(UTC)

    async def start(self, count: int) -> None:
        """Makes the calls, and bills each once so that statements and plans are made and tables are as in use."""
        conn = self._connections[0]
        await conn.execute(CLOCK)
        await conn.execute("INSERT INTO benchmark_clock VALUES ($1)", self._now)
        callers, callees = ([f"{side}-{number}" for number in range(count)] for side in ("caller", "callee"))
        wallets = await store.ensure_accounts(conn, [(caller, "wallet") for caller in callers])
        earnings = await store.ensure_accounts(conn, [(callee, "earnings") for callee in callees])
        granted = await store.platform_account(conn, "granted_tokens")
        for start in range(0, count, FUNDED_AT_ONCE):
            funding = [
                Journal(f"fund:{wallet}", TransactionType.GRANT, (debit(granted, FUNDS), credit(wallet, FUNDS)))
                for wallet in wallets[start : start + FUNDED_AT_ONCE]
            ]
            assert all(posting.outcome == "posted" for posting in await store.post(conn, funding, actor="benchmark"))
        ids = [new_id() for _ in range(count)]
        await conn.execute(ACTIVE_CALLS, ids, callers, callees, wallets, earnings, PERIOD_S, self._now)
        await conn.execute(LIVE_PARTIES)
        await conn.execute("ANALYZE")
        share = -(-count // len(self._connections))
        assert await self._drain(self._connections, min(share, BATCH), [], time.perf_counter() + 60) == count
        await conn.execute("VACUUM ANALYZE")

    async def rate(self, batch: int, several: int, seconds: float) -> dict[str, Any]:
        """Calls billed a second, over as many periods as there is time for, and the latency of a batch."""
        durations: list[float] = []
        billed = periods = 0
        busy_s = 0.0
        while busy_s < seconds:
            await self._next_period()
            started = time.perf_counter()
            billed += await self._drain(self._connections[:several], batch, durations, started + seconds - busy_s)
            busy_s += time.perf_counter() - started
            periods += 1
        # Whatever there was no time for: it would outlive its grace when the clock moves on.
        await self._drain(self._connections[:1], BATCH, [], time.perf_counter() + 60)
        return {
            "batch": batch,
            "meters": several,
            "calls_per_s": round(billed / busy_s),
            "batch_ms": percentiles_ms(durations),
            "billed": billed,
            "periods": periods,
        }

    async def _next_period(self) -> None:
        self._now += timedelta(seconds=PERIOD_S)
        await self._connections[0].execute("UPDATE benchmark_clock SET at = $1", self._now)

    async def _drain(
        self, connections: Sequence[asyncpg.Connection], batch: int, durations: list[float], until: float
    ) -> int:
        """Bills until nothing is due or the time is over; answers how many calls."""

        async def meter(conn: asyncpg.Connection) -> int:
            billed = 0
            while time.perf_counter() < until:
                started = time.perf_counter()
                calls = await calls_store.bill_due(conn, batch, None)
                if not calls:
                    break
                durations.append(time.perf_counter() - started)
                assert all(one.debited for one in calls), {one.outcome for one in calls}
                billed += len(calls)
            return billed

        return sum(await asyncio.gather(*map(meter, connections)))


def show(figures: dict[str, Any], console: Console) -> None:
    table = Table(title=f"calls metered a second, {figures['calls']:,} due each period")
    for head in ("batch", "meters", "calls/s", "concurrent calls", "p50 ms", "p90 ms", "p99 ms", "max ms"):
        table.add_column(head, justify="right")
    for cell in figures["cells"]:
        table.add_row(
            f"{cell['batch']:,}", str(cell["meters"]), f"{cell['calls_per_s']:,}",
            f"{cell['calls_per_s'] * PERIOD_S:,}", *(f"{ms:,.1f}" for ms in cell["batch_ms"].values()),
        )  # fmt: skip
    console.print(table)
    best = figures["best"]
    console.print(
        f"best: {figures['calls_per_s']:,} calls/s with batch {best['batch']:,}, {best['meters']} meters: "
        f"{figures['concurrent_calls']:,} concurrent calls at one debit a minute"
    )
