"""`scripts/load-tabs`: opens many browser tabs against a server, lets them do something, and says how it went."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.tabs import report
from scripts.tabs.bounded import Stopped, bounded
from scripts.tabs.children import ChildFailed
from scripts.tabs.crowds import Crowds, crowds
from scripts.tabs.processes import open_files_to_the_limit
from scripts.tabs.server_side import ServerSide, server_side
from scripts.tabs.timeline import Timeline

SETTLES_WITHIN_S = 5.0
SHOWN_EVERY_S = 0.25
GRACE_S = 60.0
"""On top of what the options add up to, before the whole run is cut off."""
RESULTS = Path("bench-results")


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 120)
    open_files_to_the_limit()
    try:
        figures, timeline = uvloop.run(bounded(_run(options, console), _bound_s(options)))
    except (Stopped, ChildFailed, aiohttp.ClientError, OSError) as error:
        print(f"load-tabs: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("load-tabs: stopped", file=sys.stderr)
        return 130
    console.print(report.table(figures))
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        report.plot(figures, timeline, options.plot)
        console.print(f"plot: {options.plot}")
    if options.json:
        figures["timeline"] = asdict(timeline)
        print(json.dumps(figures, default=str))
    if not figures["tabs"]["opened"]:
        print("load-tabs: no tab could be opened", file=sys.stderr)
        return 1
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/load-tabs", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server (default: %(default)s)")
    parser.add_argument("--tabs", type=int, default=1_000, help="how many in all (default: %(default)s)")
    parser.add_argument("--users", type=int, help="whose they are (default: one user for every two tabs)")
    parser.add_argument(
        "--scenario",
        choices=["idle", "storm", "calls"],
        default="storm",
        help="stay open; hear of grants; ring, answer, be metered and hang up in pairs (default: %(default)s)",
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the scenario runs (default: %(default)s)")
    parser.add_argument(
        "--ramp", type=float, metavar="PER_S", help="tabs opened a second (default: as fast as it goes)"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="storm: grants a second (default: %(default)s)")
    parser.add_argument(
        "--call-seconds", type=float, default=3.0, help="calls: how long one lasts (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, help="client processes (default: half of the processors, at most 8)")
    parser.add_argument("--jwt-secret", help="sign tokens with it (default: ask POST /dev/login, or JWT_SECRET if set)")
    parser.add_argument("--pid", type=int, action="append", help="the server's processes, if they cannot be found out")
    parser.add_argument("--plot", type=Path, help=f"where the plot goes (default: {RESULTS}/load-tabs-SCENARIO.png)")
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    options = parser.parse_args(arguments)
    if options.tabs < 1 or options.seconds <= 0 or (options.users is not None and options.users < 1):
        parser.error("--tabs, --users and --seconds are at least 1")
    options.users = min(options.users or max(1, options.tabs // 2), options.tabs)
    if options.scenario == "calls" and options.users < 2:
        parser.error("calls need two users")
    options.processes = options.processes or max(1, min(8, (os.cpu_count() or 2) // 2))
    options.processes = max(1, min(options.processes, options.users // 2))
    options.jwt_secret = options.jwt_secret or os.environ.get("JWT_SECRET")
    if options.no_plot:
        options.plot = None
    elif options.plot is None:
        options.plot = RESULTS / f"load-tabs-{options.scenario}.png"
    return options


def _bound_s(options: argparse.Namespace) -> float:
    ramp_s = options.tabs / options.ramp if options.ramp else options.tabs / 100
    return float(ramp_s + options.seconds + SETTLES_WITHIN_S + GRACE_S)


async def _run(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], Timeline]:
    await _reach(options.url)
    run_id = f"{os.getpid():x}{int(time.time()) & 0xFFFF:x}"
    users = [f"load-{run_id}-{number}" for number in range(options.users)]
    tabs_each = options.tabs // options.users
    async with crowds(options.processes) as clients, server_side(options.url, options.pid) as server:
        await clients.be(url=options.url, users=users, tabs_each=tabs_each, credentials={"secret": options.jwt_secret})
        async with Timeline.kept(clients, server) as timeline:
            with _progress(console) as progress:
                opening = await _open(options, clients, server, progress, len(users) * tabs_each)
                acting = await _act(options, clients, server, progress)
        figures = await clients.figures()
        await clients.each("close")
    return {
        "url": options.url,
        "scenario": options.scenario,
        "client_processes": options.processes,
        "server": server.described(),
        **report.figures_of(figures, opening, acting, users=len(users)),
    }, timeline


async def _reach(url: str) -> None:
    try:
        async with aiohttp.ClientSession() as http, http.get(url + "/health", timeout=aiohttp.ClientTimeout(5)):
            pass
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise Stopped(f"{urlsplit(url).netloc or url} does not answer: {error}") from None


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[more]}"), console=console) as progress:
        yield progress


async def _open(
    options: argparse.Namespace, clients: Crowds, server: ServerSide, progress: Progress, tabs: int
) -> report.Phase:
    before = await server.cost()
    started_at = time.perf_counter()
    task = progress.add_task("opening", total=tabs, more="")
    per_s = options.ramp / len(clients) if options.ramp else None
    opening = clients.each("open", per_s=per_s)
    await _watch(opening, lambda: progress.update(task, completed=clients.standing("opened"), more=_closed(clients)))
    seconds = time.perf_counter() - started_at
    await asyncio.sleep(1.0)  # snapshots that follow the connections, and memory that is given back
    progress.update(task, completed=clients.standing("opened"), more=_closed(clients))
    await clients.each("recount")
    return report.Phase(seconds, before, await server.cost())


async def _act(options: argparse.Namespace, clients: Crowds, server: ServerSide, progress: Progress) -> report.Phase:
    before = await server.cost()
    started_at = time.perf_counter()
    task = progress.add_task(options.scenario, total=round(options.seconds), more="")
    share = 1 / len(clients)
    work: Coroutine[Any, Any, Any]
    if options.scenario == "storm":
        work = clients.each("storm", seconds=options.seconds, per_s=options.rate * share)
    elif options.scenario == "calls":
        work = clients.each("calls", seconds=options.seconds, call_s=options.call_seconds)
    else:
        work = asyncio.sleep(options.seconds)

    def show() -> None:
        passed_s = min(time.perf_counter() - started_at, options.seconds)
        heard = f"{clients.standing('events')} messages"
        progress.update(task, completed=round(passed_s), more=f"{heard} {_closed(clients)}")

    await _watch(work, show)
    seconds = time.perf_counter() - started_at
    after = await server.cost()
    await clients.each("settle", within_s=SETTLES_WITHIN_S)
    show()
    return report.Phase(seconds, before, after)


async def _watch(work: Coroutine[Any, Any, Any], show: Callable[[], None]) -> None:
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=SHOWN_EVERY_S))[0]:
            show()
        await task
    finally:
        task.cancel()


def _closed(clients: Crowds) -> str:
    closed = clients.standing("closed")
    return f"[red]{closed} closed[/red]" if closed else ""


if __name__ == "__main__":
    sys.exit(main())
