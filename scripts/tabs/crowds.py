"""Several client processes behind one handle."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from scripts.tabs.children import Child
from scripts.tabs.histogram import Histogram

TABS_A_SOURCE = 20_000


class Figures:
    """What all crowds have counted together."""

    def __init__(self, parts: Sequence[dict[str, Any]]) -> None:
        self.opened: int = sum(part["opened"] for part in parts)
        self.events: int = sum(part["events"] for part in parts)
        self.lost: int = sum(part["lost"] for part in parts)
        self.late: int = sum(part["late"] for part in parts)
        self.twice: int = sum(part["twice"] for part in parts)
        self.closed: Counter[str] = sum((Counter(part["closed"]) for part in parts), Counter())
        self.by_event: Counter[str] = sum((Counter(part["by_event"]) for part in parts), Counter())
        self.done: Counter[str] = sum((Counter(part["done"]) for part in parts), Counter())
        self.failures: Counter[str] = sum((Counter(part["failures"]) for part in parts), Counter())
        self.connect_s = Histogram()
        self.latency_s: dict[str, Histogram] = {}
        for part in parts:
            self.connect_s.merge(Histogram.from_json(part["connect_s"]))
            for what, buckets in part["latency_s"].items():
                self.latency_s.setdefault(what, Histogram()).merge(Histogram.from_json(buckets))


class Crowds:
    def __init__(self, processes: Sequence[Child]) -> None:
        self._processes = processes

    async def be(self, *, url: str, users: Sequence[str], tabs_each: int, credentials: dict[str, Any]) -> None:
        """Share the users out; two users that stand side by side in the list are in the same process."""
        count = len(self._processes)
        size = -(-len(users) // count)
        size += size % 2
        shares = [users[number * size : (number + 1) * size] for number in range(count)]
        await asyncio.gather(
            *(
                process.ask(
                    "be",
                    url=url,
                    crowd=number,
                    users=list(share),
                    tabs_each=tabs_each,
                    credentials=credentials,
                    sources=1 + len(share) * tabs_each // TABS_A_SOURCE,
                )
                for number, (process, share) in enumerate(zip(self._processes, shares, strict=True))
            )
        )

    async def each(self, command: str, **options: Any) -> list[Any]:
        return await asyncio.gather(*(process.ask(command, **options) for process in self._processes))

    async def figures(self) -> Figures:
        return Figures(await self.each("figures"))

    def standing(self, what: str) -> int:
        """`opened`, `closed` or `events`, a moment ago."""
        return sum(process.standing.get(what, 0) for process in self._processes)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def __len__(self) -> int:
        return len(self._processes)


@asynccontextmanager
async def crowds(count: int) -> AsyncIterator[Crowds]:
    """Start client processes, which end with this block."""
    starting = asyncio.gather(*(Child.start(sys.executable, "-m", "scripts.tabs.crowd_process") for _ in range(count)))
    try:
        yield Crowds(await asyncio.shield(starting))  # who gives up meanwhile still has to stop them
    finally:
        await asyncio.gather(*(process.stop() for process in await starting))
