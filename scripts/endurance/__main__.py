"""`scripts/soak`: hours of calls in minutes, on a server of its own, and whether it stays flat and counts right.

Calls with short periods come, are billed, end and are replaced; tabs are closed and opened again; tokens are bought,
keys expire, jobs run. At the end the ledger is verified, every call's periods are held against the time that passed,
every tab's versions are consecutive, and memory, descriptors and tasks are as they were after the warm-up: `flat`, or
exit 1 with what grew or was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ledger.database_url import DatabaseUrl
from ledger.verify import verify
from realtime.embedded import EmbeddedError
from scripts.endurance import report
from scripts.endurance.estate import JWT_SECRET, Estate, NotStarted, estate
from scripts.endurance.samples import KINDS, Samples
from scripts.endurance.verdict import WARM_UP_SHARE, trend
from scripts.tabs.bounded import Stopped, bounded
from scripts.tabs.children import ChildFailed
from scripts.tabs.crowds import Crowds, Figures, crowds
from scripts.tabs.processes import open_files_to_the_limit

GRACE_S = 420.0
"""On top of what the options add up to, for starting, settling and verifying, before the run is cut off."""
SETTLES_WITHIN_S = 20.0
SAMPLES = 150
RAMP_SHARE = 0.1
"""Of the run, for calls to begin one by one; at the end they end so, and that is not judged."""
PURCHASE_EVERY_S = 4.0

# An ended call has paid for the periods it had started, and nothing else; the last of them holds its end. A call that
# ended at once may have ended in the moment its first period began.
MISCOUNTED = """
SELECT count(*) FROM calls WHERE started_at IS NOT NULL AND (status <> 'ended' OR end_reason = 'failed'
    OR ended_at > paid_through OR ended_at < paid_through - period_seconds * interval '1 second')
"""
COUNTED = """
SELECT count(*) AS calls, coalesce(sum(periods_billed), 0)::bigint AS periods,
    coalesce(sum(ceil(extract(epoch FROM ended_at - started_at) / period_seconds)), 0)::bigint AS passed,
    (SELECT count(*) FROM journals WHERE type = 'call_debit') AS debits
FROM calls WHERE started_at IS NOT NULL
"""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 150)
    open_files_to_the_limit()
    try:
        figures, samples = uvloop.run(bounded(_run(options, console), _bound_s(options)))
    except (Stopped, NotStarted, ChildFailed, EmbeddedError, aiohttp.ClientError, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("soak: stopped", file=sys.stderr)
        return 130
    if not options.no_plot:
        report.plot(samples, figures, options.plot)
        console.print(f"plot: {options.plot}")
    if options.json:
        print(json.dumps(figures | {"at_s": samples.at_s, "series": samples.series}))
    for problem in figures["problems"]:
        print(f"soak: {problem}", file=sys.stderr)
    if not figures["problems"]:
        console.print("[green]flat[/green]")
    return 1 if figures["problems"] else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long calls go on (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=2_000, help="at a time (default: %(default)s)")
    parser.add_argument("--tabs", type=int, default=10_000, help="at a time, two a user (default: %(default)s)")
    parser.add_argument("--period-s", type=int, default=1, help="what a debit pays for (default: %(default)s)")
    parser.add_argument("--call-seconds", type=float, default=120, help="a call lasts, or so (default: %(default)s)")
    parser.add_argument("--tabs-per-s", type=float, default=20, help="that go and come back (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of clients (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("bench-results/soak.png"), help="(default: %(default)s)")
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the rest on stderr")
    options = parser.parse_args(arguments)
    if min(options.minutes, options.calls, options.period_s, options.processes, options.call_seconds) <= 0:
        parser.error("--minutes, --calls, --period-s, --call-seconds and --processes are more than 0")
    if options.tabs < 4 * options.calls:
        parser.error("--tabs are at least four for each call: two users with two tabs each")
    return options


def _bound_s(options: argparse.Namespace) -> float:
    return float(60 * options.minutes + options.tabs / 50 + GRACE_S)


async def _run(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], Samples]:
    seconds = 60 * options.minutes
    async with estate(options.period_s) as place:
        async with crowds(options.processes) as clients:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[more]}"),
            )
            with Progress(*columns, console=console) as progress:
                counted, samples, opened = await _soak(options, place, clients, progress, seconds)
        periods, ledger = await _count(place.database_url)
    title = (
        f"{options.minutes:g} minutes of {options.calls:,} calls, periods of {options.period_s} s, {opened:,} tabs: "
        f"{periods['periods']:,} debits"
    )
    warm_up_s = WARM_UP_SHARE * seconds
    end_s = (1 - RAMP_SHARE) * seconds
    shown = [at for at in samples.at_s if at <= end_s]
    trends = {
        name: trend(shown, values[: len(shown)], KINDS[name].allowed or 0, warm_up_s=warm_up_s)
        for name, values in samples.series.items()
    }
    figures = {
        "title": title, "minutes": options.minutes, "calls": options.calls, "tabs": opened, "cpus": os.cpu_count(),
        "warm_up_s": warm_up_s, "periods": periods, "ledger": ledger, "done": dict(counted.done),
        "failures": dict(counted.failures), "lost": counted.lost, "twice": counted.twice, "late": counted.late,
        "closed": dict(counted.closed), "messages": counted.events,
        "latency_ms": {what: found.percentiles_ms() for what, found in sorted(counted.latency_s.items())},
        "trends": {name: vars(found) for name, found in trends.items()},
    }  # fmt: skip
    figures["problems"] = _problems(figures)
    console.print(report.table(samples, trends, title))
    console.print({name: figures[name] for name in ("periods", "ledger", "done", "failures", "closed", "latency_ms")})
    return figures, samples


async def _soak(
    options: argparse.Namespace, place: Estate, clients: Crowds, progress: Progress, seconds: float
) -> tuple[Figures, Samples, int]:
    users = [f"soak-{number}" for number in range(options.tabs // 2)]
    await clients.be(url=place.url, users=users, tabs_each=2, credentials={"secret": JWT_SECRET})
    task = progress.add_task("opening tabs", total=None, more="")
    await clients.each("open", per_s=None)
    await clients.each("recount")
    opened = sum(part["opened"] for part in await clients.each("figures"))
    progress.update(task, description="soaking", total=seconds, more="")
    started_at = time.perf_counter()

    def show(samples: Samples) -> None:
        now = {name: values[-1] for name, values in samples.series.items()}
        more = "{debits:,.0f} debits/s, due lag {due:.2f} s, web {memory:.0f} MiB, {calls:,.0f} calls, {tabs:,.0f} tabs"
        progress.update(
            task, completed=min(seconds, time.perf_counter() - started_at),
            more=more.format(
                debits=now["debits"], due=now["due lag"], memory=now["web memory"], calls=now["calls"], tabs=now["tabs"]
            ),
        )  # fmt: skip

    share = 1 / len(clients)
    every_s = max(0.25, seconds / SAMPLES)
    async with Samples.kept(place, clients, every_s, show) as samples:
        await clients.each(
            "soak",
            seconds=seconds,
            calls=-(-options.calls // len(clients)),
            call_s=options.call_seconds,
            ramp_s=RAMP_SHARE * seconds,
            tabs_per_s=options.tabs_per_s * share,
            purchase_every_s=PURCHASE_EVERY_S / share if seconds > 60 else 1.0,
            stripe_url=place.stripe_url,
        )
    progress.update(task, completed=seconds, description="settling")
    await clients.each("settle", within_s=SETTLES_WITHIN_S)
    counted = await clients.figures()
    await clients.each("close")
    return counted, samples, opened


async def _count(database_url: str) -> tuple[dict[str, int], dict[str, Any]]:
    connection = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())
    try:
        counted = dict(await connection.fetchrow(COUNTED))
        counted["miscounted"] = await connection.fetchval(MISCOUNTED)
    finally:
        await connection.close()
    verdict = await asyncio.to_thread(verify, database_url)
    findings = [f"{found.what}: {found.problem}" for found in verdict.findings]
    return counted, {"journals": verdict.journals, "entries": verdict.entries, "findings": findings}


def _problems(figures: dict[str, Any]) -> list[str]:
    found = [f"verify: {finding}" for finding in figures["ledger"]["findings"]]
    periods = figures["periods"]
    if not periods["debits"]:
        found.append("no period was debited")
    if periods["miscounted"]:
        found.append(f"{periods['miscounted']} calls paid for other periods than they had")
    if periods["periods"] != periods["debits"]:
        found.append(f"calls count {periods['periods']} periods, the ledger {periods['debits']}")
    if figures["lost"] or figures["twice"]:
        found.append(f"by version, {figures['lost']} messages lost and {figures['twice']} twice")
    found += [f"{count} tabs closed: {why}" for why, count in figures["closed"].items()]
    found += [f"{count} failed: {why}" for why, count in figures["failures"].items()]
    for name, one in figures["trends"].items():
        if KINDS[name].allowed is not None and not one["flat"]:
            unit = KINDS[name].unit
            found.append(f"{name} grew from {one['first_third']:.1f} to {one['last_third']:.1f} {unit}".rstrip())
    return found


if __name__ == "__main__":
    sys.exit(main())
