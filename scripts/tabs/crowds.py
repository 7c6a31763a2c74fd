"""Several client processes behind one handle."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from scripts.tabs.histogram import Histogram

ROOT = Path(__file__).parent.parent.parent
LONGEST_LINE_BYTES = 64_000_000
STOPS_WITHIN_S = 5.0
TABS_A_SOURCE = 20_000


class CrowdFailed(Exception):
    """A client process could not do what it was told, or has ended."""


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.standing: dict[str, int] = {"opened": 0, "closed": 0, "events": 0}
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def ask(self, command: str, **options: Any) -> Any:
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(orjson.dumps({"number": number, "command": command, "options": options}) + b"\n")
        await self.process.stdin.drain()
        return await answer

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            said = orjson.loads(line)
            if "number" not in said:
                self.standing = said
            elif not (answer := self._asked.pop(said["number"])).done():
                if "failed" in said:
                    answer.set_exception(CrowdFailed(said["failed"]))
                else:
                    answer.set_result(said["answer"])
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(CrowdFailed("a client process ended"))

    async def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(STOPS_WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reading


class Figures:
    """What all crowds have counted together."""

    def __init__(self, parts: Sequence[dict[str, Any]]) -> None:
        self.opened: int = sum(part["opened"] for part in parts)
        self.events: int = sum(part["events"] for part in parts)
        self.lost: int = sum(part["lost"] for part in parts)
        self.disordered: int = sum(part["disordered"] for part in parts)
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
    def __init__(self, processes: Sequence[_Process]) -> None:
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
        return sum(process.standing[what] for process in self._processes)

    @property
    def pids(self) -> list[int]:
        return [process.process.pid for process in self._processes]

    def __len__(self) -> int:
        return len(self._processes)


async def _start() -> _Process:
    return _Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scripts.tabs.crowd", cwd=ROOT, env=dict(os.environ), limit=LONGEST_LINE_BYTES,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )
    )  # fmt: skip


@asynccontextmanager
async def crowds(count: int) -> AsyncIterator[Crowds]:
    """Start client processes, which end with this block."""
    starting = asyncio.gather(*(_start() for _ in range(count)))
    try:
        yield Crowds(await asyncio.shield(starting))  # who gives up meanwhile still has to stop them
    finally:
        await asyncio.gather(*(process.stop() for process in await starting))
