"""Fan-out: ours, python-socketio and Node's Socket.IO side by side, by the processor time and memory they take.

Every server does the same for the same clients (which are processes of their own): tabs connect and enter their user's
room and a common one; then come messages to everybody, to each user from the serving process, and to each user from
another process through Redis. Ours sends the last as its meter does, 500 with one `emit_many`; the others emit each.
The servers take turns, several rounds, and medians are told. CPU is that of the processes that serve and emit, Redis's
is told beside it; memory is the proportional set size that an idle tab adds.

The last part runs 1, 2 and 4 processes of ours behind one Redis, with the same tabs spread over them: how many messages
each is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scripts.benchmarks.harness.redis import Redis, redis
from scripts.tabs.children import ROOT, Child
from scripts.tabs.crowds import Crowds, crowds
from scripts.tabs.processes import Meter, memory_bytes, open_files_to_the_limit

NODE = ROOT / "scripts" / "node"
CLIENT_PROCESSES = 2
HEARD_WITHIN_S = 30.0
ON_THEIR_WAY = 20_000
SETTLE_S = 1.5
WARM_TABS = 100
BOUND_S = 600.0


class Implementation(NamedTuple):
    name: str
    title: str
    command: tuple[str, ...]
    together: bool = False
    """Sends a batch with one call."""
    share: float = 1.0
    """Of the messages; what is told is per message."""


OURS = Implementation("ours", "ours", (sys.executable, "-m", "scripts.benchmarks.servers.ours"), together=True)
STOCK = Implementation(
    "stock", "python-socketio", (sys.executable, "-m", "scripts.benchmarks.servers.stock"), share=0.1
)
NODES = Implementation("node", "Node Socket.IO", ("node", str(NODE / "server.mjs")))


@dataclass(frozen=True)
class Size:
    tabs: int
    rounds: int
    broadcasts: int
    room_rounds: int
    spread_tabs: int
    spread_rounds: int


FULL = Size(tabs=4_000, rounds=3, broadcasts=50, room_rounds=20, spread_tabs=2_000, spread_rounds=20)
QUICK = Size(tabs=2_000, rounds=1, broadcasts=50, room_rounds=20, spread_tabs=1_000, spread_rounds=20)


Figures = dict[str, dict[str, float]]
"""Of one turn, by scenario."""


class Lost(Exception):
    """A server has not delivered what it was told to: there is nothing to compare."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a minute: one round, fewer tabs")
    parser.add_argument("--rounds", type=int, help=f"how often each server's turn comes (default: {FULL.rounds})")
    parser.add_argument("--tabs", type=int, help=f"default: {FULL.tabs}")
    parser.add_argument("--only", choices=["ours", "stock", "node"], action="append", help="leave the others out")
    parser.add_argument("--no-spread", action="store_true", help="leave the part with several processes out")


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    size = QUICK if options.quick else FULL
    wanted = [one for one in (OURS, STOCK, NODES) if not options.only or one.name in options.only]
    wanted = [one for one in wanted if one is not NODES or _node_is_there(console)]
    open_files_to_the_limit()
    figures = uvloop.run(
        _measure(
            wanted,
            size,
            tabs=options.tabs or size.tabs,
            rounds=options.rounds or size.rounds,
            spread=not options.no_spread,
            console=console,
        )
    )
    for shown in _tables(figures):
        console.print(shown)
    return figures


def _node_is_there(console: Console) -> bool:
    if shutil.which("node") is None or shutil.which("npm") is None:
        console.print("[yellow]node and npm are not on this machine: Node's Socket.IO is left out[/yellow]")
        return False
    if not (NODE / "node_modules" / "socket.io").exists():
        console.print("installing Node's Socket.IO from scripts/node/package-lock.json (once)")
        try:
            subprocess.run(["npm", "ci", "--silent"], cwd=NODE, check=True, timeout=120, stdout=subprocess.DEVNULL)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            console.print(f"[yellow]Node's Socket.IO is left out, it cannot be installed: {error}[/yellow]")
            return False
    return True


# -- measuring -------------------------------------------------------------------------------------------------------


async def _measure(
    wanted: list[Implementation], size: Size, *, tabs: int, rounds: int, spread: bool, console: Console
) -> dict[str, Any]:
    turns: dict[str, list[Figures]] = {one.name: [] for one in wanted}
    spreads: list[dict[str, Any]] = []
    async with asyncio.timeout(BOUND_S), crowds(CLIENT_PROCESSES) as clients, redis() as store:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("", total=rounds * len(wanted) + (3 if spread else 0))
            for number in range(1, rounds + 1):
                for one in wanted:
                    progress.update(task, description=f"round {number}: {one.title}")
                    turns[one.name].append(await Turn(one, store, clients, size, tabs).take())
                    progress.advance(task)
            for count in (1, 2, 4) if spread else ():
                progress.update(task, description=f"ours in {count} processes")
                spreads.append(await _spread(count, store, size))
                progress.advance(task)
    return {
        "tabs": tabs,
        "rounds": rounds,
        **_summary(turns),
        "processes": spreads,
        "all_rounds": turns,
    }


class Turn:
    """One server's turn: started, warmed up, measured and stopped."""

    def __init__(self, one: Implementation, store: Redis, clients: Crowds, size: Size, tabs: int) -> None:
        self._one = one
        self._store = store
        self._clients = clients
        self._size = size
        self._users = [f"user:{number}" for number in range(tabs)]
        self._version = 0

    async def take(self) -> Figures:
        async with started(self._one, "web", self._store) as web, started(self._one, "emitter", self._store) as emitter:
            url = f"http://127.0.0.1:{await web.ask('ready')}"
            await emitter.ask("ready")
            await self._be(url, self._users[:WARM_TABS])
            await self._clients.each("open")
            await self._broadcast(web, 10)
            await self._rooms(web, web, self._users[:WARM_TABS], 3)
            await self._rooms(web, emitter, self._users[:WARM_TABS], 3)
            await self._clients.each("close")
            await self._be(url, self._users)
            await asyncio.sleep(SETTLE_S)
            share, size = self._one.share, self._size
            rounds = round(share * size.room_rounds)
            figures = {
                "connect": await self._connect(web),
                "broadcast": await self._broadcast(web, round(share * size.broadcasts)),
                "rooms": await self._rooms(web, web, self._users, rounds),
                "rooms_redis": await self._rooms(web, emitter, self._users, rounds),
            }
            await self._clients.each("close")
        return figures

    async def _be(self, url: str, users: list[str]) -> None:
        await self._clients.be(url=url, users=users, tabs_each=1, credentials={"rooms": {"shared": ["all"]}})

    async def _connect(self, web: Child) -> dict[str, float]:
        before_bytes = memory_bytes(web.pid)
        meter = Meter([web.pid])
        await self._clients.each("open")
        wall_s, tabs = meter.wall_s(), len(self._users)
        await asyncio.sleep(SETTLE_S)
        cpu_s = meter.cpu_s()
        opened = (await self._clients.figures()).opened
        if opened != tabs:
            raise Lost(f"{self._one.title}: {opened} of {tabs} tabs are open")
        return {
            "cpu_us": 1e6 * cpu_s / tabs,
            "per_s": tabs / wall_s,
            "memory_bytes": (memory_bytes(web.pid) - before_bytes) / tabs,
        }

    async def _broadcast(self, web: Child, count: int) -> dict[str, float]:
        meter = Meter([web.pid])
        messages = 0
        for part in _parts(count, self._at_once()):
            messages += await self._delivered(part, web.ask("broadcast", count=part, first=self._next(part)))
        return {"cpu_us": 1e6 * meter.cpu_s() / messages, "per_s": messages / meter.wall_s()}

    async def _rooms(self, web: Child, emitter: Child, users: list[str], rounds: int) -> dict[str, float]:
        meter = Meter({web.pid, emitter.pid, self._store.pid})
        together = self._one.together and emitter is not web
        messages = 0
        for part in _parts(rounds, self._at_once()):
            options = {"users": users, "rounds": part, "first": self._next(part), "together": together}
            messages += await self._delivered(part, emitter.ask("rooms", **options))
        return {
            "cpu_us": 1e6 * meter.cpu_s(*{web.pid, emitter.pid}) / messages,
            "web_cpu_us": 1e6 * meter.cpu_s(web.pid) / messages,
            "redis_cpu_us": 1e6 * meter.cpu_s(self._store.pid) / messages,
            "per_s": messages / meter.wall_s(),
        }

    def _at_once(self) -> int:
        """Messages for each tab that may be on their way: Redis parts with who lets too many wait."""
        return max(1, ON_THEIR_WAY // len(self._users))

    def _next(self, count: int) -> int:
        first = self._version + 1
        self._version += count
        return first

    async def _delivered(self, each: int, emitting: Coroutine[Any, Any, Any]) -> int:
        """Wait until every tab has heard `each` messages of what is emitted; answers how many that were."""
        await self._clients.each("recount")
        everything = await asyncio.gather(emitting, self._clients.each("heard", each=each, within_s=HEARD_WITHIN_S))
        figures = await self._clients.figures()
        if not all(everything[1]) or figures.lost or figures.late or figures.twice or figures.closed:
            trouble = f"{figures.lost} lost, {figures.late} late, {figures.twice} twice, {dict(figures.closed)} closed"
            raise Lost(f"{self._one.title}: {figures.events} messages of {each * figures.opened} came; {trouble}")
        return figures.events


def _parts(count: int, size: int) -> Iterator[int]:
    while count > 0:
        yield min(count, size)
        count -= size


@asynccontextmanager
async def started(one: Implementation, role: str, store: Redis) -> AsyncIterator[Child]:
    arguments = (role, store.url) if one is NODES else (role, "--redis", store.url)
    child = await Child.start(*one.command, *arguments)
    try:
        yield child
    finally:
        await child.stop()


async def _spread(count: int, store: Redis, size: Size) -> dict[str, Any]:
    """The same tabs on so many processes of ours, and messages to all users from yet another one."""
    tabs = size.spread_tabs
    users = [f"user:{number}" for number in range(tabs)]
    async with AsyncExitStack() as stack:
        webs = [await stack.enter_async_context(started(OURS, "web", store)) for _ in range(count)]
        emitter = await stack.enter_async_context(started(OURS, "emitter", store))
        await emitter.ask("ready")
        parties = [await stack.enter_async_context(crowds(1)) for _ in webs]
        for number, (web, party) in enumerate(zip(webs, parties, strict=True)):
            await party.be(
                url=f"http://127.0.0.1:{await web.ask('ready')}",
                users=users[number::count],
                tabs_each=1,
                credentials={"rooms": {"shared": []}},
            )
            await party.each("open")
        before = [await web.ask("received") for web in webs]
        meter = Meter([emitter.pid, *(web.pid for web in webs)])
        for number in range(size.spread_rounds):
            listening = [party.each("heard", each=number + 1, within_s=HEARD_WITHIN_S) for party in parties]
            emitting = emitter.ask("rooms", users=users, rounds=1, first=number + 1, together=True)
            _, *heard = await asyncio.gather(emitting, *listening)
            if not all(all(one) for one in heard):
                raise Lost(f"ours in {count} processes: messages are missing")
        cpu_s = meter.cpu_s()
        received = [await web.ask("received") - first for web, first in zip(webs, before, strict=True)]
        messages = tabs * size.spread_rounds
    return {
        "processes": count,
        "messages": messages,
        "received_each": received,
        "share_each": round(max(received) / messages, 3),
        "cpu_us": round(1e6 * cpu_s / messages, 2),
    }


# -- telling ---------------------------------------------------------------------------------------------------------


def _summary(turns: dict[str, list[Figures]]) -> dict[str, Any]:
    servers = {
        name: {
            scenario: {figure: round(median(turn[scenario][figure] for turn in taken), 2) for figure in found}
            for scenario, found in taken[0].items()
        }
        for name, taken in turns.items()
    }
    figures: dict[str, Any] = {"servers": servers}
    if {"ours", "node"} <= servers.keys():
        for (scenario, figure), ratio in RATIOS.items():
            ours, node = servers["ours"][scenario][figure], servers["node"][scenario][figure]
            figures[ratio] = round(ours / node if ratio in COSTS else node / ours, 2)
    return figures


RATIOS = {
    ("broadcast", "cpu_us"): "ratio_broadcast",
    ("rooms", "cpu_us"): "ratio_rooms",
    ("rooms_redis", "cpu_us"): "ratio_rooms_redis",
    ("connect", "memory_bytes"): "ratio_memory",
    ("connect", "cpu_us"): "ratio_connect_cpu",
}
COSTS = {"ratio_memory", "ratio_connect_cpu"}
"""Ours divided by Node's; the others are messages a CPU second, so Node's CPU divided by ours."""


def _microseconds(value: float) -> str:
    return f"{value:,.2f} µs" if value < 100 else f"{value:,.0f} µs"


def _kibibytes(value: float) -> str:
    return f"{value / 1024:.1f} KiB"


ROWS: tuple[tuple[str, tuple[str, str], Callable[[float], str]], ...] = (
    ("broadcast to all: CPU a message", ("broadcast", "cpu_us"), _microseconds),
    ("  messages a second", ("broadcast", "per_s"), "{:,.0f}".format),
    ("a room each: CPU a message", ("rooms", "cpu_us"), _microseconds),
    ("  messages a second", ("rooms", "per_s"), "{:,.0f}".format),
    ("  Redis beside it", ("rooms", "redis_cpu_us"), _microseconds),
    ("a room each, through Redis: CPU a message", ("rooms_redis", "cpu_us"), _microseconds),
    ("  the serving process's part of it", ("rooms_redis", "web_cpu_us"), _microseconds),
    ("  messages a second", ("rooms_redis", "per_s"), "{:,.0f}".format),
    ("  Redis beside it", ("rooms_redis", "redis_cpu_us"), _microseconds),
    ("CPU a connect", ("connect", "cpu_us"), _microseconds),
    ("  connects a second", ("connect", "per_s"), "{:,.0f}".format),
    ("memory an idle tab", ("connect", "memory_bytes"), _kibibytes),
)


def _tables(figures: dict[str, Any]) -> Iterator[Table]:
    servers = figures["servers"]
    shown = Table(title=f"{figures['tabs']:,} tabs, medians of {figures['rounds']}", title_justify="left")
    shown.add_column("")
    for one in (OURS, STOCK, NODES):
        if one.name in servers:
            shown.add_column(one.title, justify="right")
    shown.add_column("ours beside Node's", justify="right")
    for title, (scenario, figure), spelled in ROWS:
        cells = [spelled(servers[one.name][scenario][figure]) for one in (OURS, STOCK, NODES) if one.name in servers]
        name = RATIOS.get((scenario, figure), "")
        compared = f"{figures[name]} × its {'cost' if name in COSTS else 'speed'}" if name in figures else ""
        shown.add_row(title, *cells, compared)
    yield shown
    if figures["processes"]:
        spread = Table(title="the same messages to ours in several processes", title_justify="left")
        for title in ("processes", "messages", "sent to each", "of all", "CPU a message"):
            spread.add_column(title, justify="right")
        for row in figures["processes"]:
            each = ", ".join(f"{count:,}" for count in row["received_each"])
            share = f"{row['share_each']:.0%}"
            spread.add_row(str(row["processes"]), f"{row['messages']:,}", each, share, f"{row['cpu_us']:.2f} µs")
        yield spread
