"""How everything stands, every few seconds: by /proc, PostgreSQL and the web process's /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import asyncpg

from ledger.database_url import DatabaseUrl
from realtime.adapters import operations_store
from scripts.endurance.estate import Estate
from scripts.tabs.crowds import Crowds
from scripts.tabs.processes import cpu_s

MIB = 2**20


class Kind(NamedTuple):
    unit: str
    allowed: float | None
    """How far it may grow after the warm-up, beside a tenth; None for what is shown and not judged."""


KINDS = {
    "web memory": Kind("MiB", 12),
    "worker memory": Kind("MiB", 12),
    "PostgreSQL memory": Kind("MiB", 24),
    "Redis memory": Kind("MiB", 8),
    "web descriptors": Kind("", 50),
    "worker descriptors": Kind("", 10),
    "Redis descriptors": Kind("", 10),
    "web tasks": Kind("", 50),
    "due lag": Kind("s", None),
    "delivery lag": Kind("ms", None),
    "debits": Kind("/s", None),
    "messages": Kind("/s", None),
    "calls": Kind("", None),
    "tabs": Kind("", None),
    "web CPU": Kind("%", None),
    "worker CPU": Kind("%", None),
    "PostgreSQL CPU": Kind("%", None),
    "Redis CPU": Kind("%", None),
}


class Samples:
    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.series: dict[str, list[float]] = {name: [] for name in KINDS}

    @classmethod
    @asynccontextmanager
    async def kept(
        cls, place: Estate, clients: Crowds, every_s: float, show: Callable[[Samples], None]
    ) -> AsyncIterator[Samples]:
        """Kept while the block runs. What fails ends the keeping, and is raised at the block's end."""
        samples = cls()
        keeping = asyncio.create_task(samples._keep(place, clients, every_s, show))
        try:
            yield samples
        finally:
            if not keeping.done():
                keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping

    async def _keep(self, place: Estate, clients: Crowds, every_s: float, show: Callable[[Samples], None]) -> None:
        connection = await asyncpg.connect(**DatabaseUrl.parse(place.database_url).for_asyncpg())
        started_at = time.perf_counter()
        cpu, events, seen_at = _cpu(place), clients.standing("events"), started_at
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
                while True:
                    await asyncio.sleep(every_s)
                    metrics = await _metrics(http, place.url)
                    now, was = time.perf_counter(), seen_at
                    seen_at = now
                    cpu_now, events_now = _cpu(place), clients.standing("events")
                    found = {
                        "web memory": _resident(place.pids["web"]) / MIB,
                        "worker memory": _resident(place.pids["worker"]) / MIB,
                        "PostgreSQL memory": sum(map(_own, _family(place.pids["postgresql"]))) / MIB,
                        "Redis memory": _resident(place.pids["redis"]) / MIB,
                        "web descriptors": _descriptors(place.pids["web"]),
                        "worker descriptors": _descriptors(place.pids["worker"]),
                        "Redis descriptors": _descriptors(place.pids["redis"]),
                        "web tasks": metrics.get("callmeter_event_loop_tasks", 0),
                        "due lag": await operations_store.due_lag_s(connection),
                        "delivery lag": 1000 * metrics.get("callmeter_fanout_delivery_lag_seconds", 0),
                        "debits": await operations_store.recent_debits(connection, 2) / 2,
                        "messages": max(0, events_now - events) / (now - was),
                        "calls": (await operations_store.live_calls(connection))["active"],
                        "tabs": clients.standing("opened"),
                    }
                    for name, spent in cpu_now.items():
                        found[f"{name} CPU"] = 100 * max(0.0, spent - cpu[name]) / (now - was)
                    cpu, events = cpu_now, events_now
                    self.at_s.append(round(now - started_at, 2))
                    for name, value in found.items():
                        self.series[name].append(round(float(value), 3))
                    show(self)
        finally:
            await connection.close()


async def _metrics(http: aiohttp.ClientSession, url: str) -> dict[str, float]:
    async with http.get(url + "/metrics") as answer:
        pairs = (line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def _cpu(place: Estate) -> dict[str, float]:
    spent = {
        "web": cpu_s(place.pids["web"]),
        "worker": cpu_s(place.pids["worker"]),
        "Redis": cpu_s(place.pids["redis"]),
    }
    return spent | {"PostgreSQL": sum(map(cpu_s, _family(place.pids["postgresql"])))}


def _family(pid: int) -> list[int]:
    """A process and its children."""
    with contextlib.suppress(OSError):
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return [pid]


def _resident(pid: int) -> int:
    return _sizes(pid, "status").get("VmRSS", 0)


def _own(pid: int) -> int:
    """Without the shared buffers, which fill up once and belong to all."""
    return _sizes(pid, "smaps_rollup").get("Pss_Anon", 0)


def _sizes(pid: int, table: str) -> dict[str, int]:
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{table}").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0]) * 1024
    return found


def _descriptors(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0
