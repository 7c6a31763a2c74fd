"""How a run went over time, seen twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from scripts.tabs.crowds import Crowds
from scripts.tabs.server_side import ServerSide

SEEN_EVERY_S = 0.5


@dataclass
class Timeline:
    at_s: list[float] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    """In all, counted on where the clients' own count starts again."""
    cpu_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def kept(cls, clients: Crowds, server: ServerSide) -> AsyncIterator[Timeline]:
        """Kept while the block runs."""
        timeline = cls()
        keeping = asyncio.create_task(timeline._keep(clients, server))
        try:
            yield timeline
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def _keep(self, clients: Crowds, server: ServerSide) -> None:
        started_at = time.perf_counter()
        total = last = 0
        while True:
            cost = await server.cost()
            now = clients.standing("events")
            total, last = total + (now - last if now >= last else now), now
            self.at_s.append(round(time.perf_counter() - started_at, 2))
            self.opened.append(clients.standing("opened"))
            self.events.append(total)
            self.cpu_s.append(cost.cpu_s)
            self.memory_bytes.append(cost.memory_bytes)
            await asyncio.sleep(SEEN_EVERY_S)
