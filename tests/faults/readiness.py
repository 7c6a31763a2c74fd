"""Watches what each instance says of itself on /ready, and holds it against what was done to its servers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.servers import Server, eventually

EVERY_S = 0.1
FRESH_S = 3.0
PROMPT_S = 1.5
"""An answer that took longer says how busy this machine is: an instance gives each of its probes two seconds."""


@dataclass(frozen=True, slots=True)
class Said:
    server: Server
    began: float
    ended: float
    status: int | None
    problems: dict[str, str]


@dataclass(slots=True)
class Fault:
    """From `began` on these servers may be out of order for these instances; from `certain` to `ended` they are."""

    servers: frozenset[str]
    instances: tuple[Server, ...]
    began: float
    certain: float = float("inf")
    ended: float = float("inf")


class Readiness:
    def __init__(self, servers: list[Server]) -> None:
        self._servers = servers
        self._said: list[Said] = []
        self._faults: list[Fault] = []

    @contextlib.asynccontextmanager
    async def broken(
        self,
        name: str,
        by: Callable[[], Awaitable[Any]],
        *,
        instances: list[Server] | None = None,
        at_once: bool = True,
    ) -> AsyncIterator[None]:
        """`by` puts this server out of order for these instances, while this block lasts, which ends it.

        With `at_once` false, some requests may still get through for a while: until one said so, either answer is true.
        """
        fault = Fault(frozenset({name}), tuple(instances or self._servers), time.monotonic())
        self._faults.append(fault)
        await by()
        if at_once:
            fault.certain = time.monotonic()
        await eventually(lambda: self.shown(fault))
        fault.certain = min(fault.certain, time.monotonic())
        yield
        fault.ended = time.monotonic()

    def shown(self, fault: Fault) -> bool:
        """Whether every instance it concerns has said so, in answer to a question asked since."""
        said = {one.server for one in self._said if one.began >= fault.began and one.status not in {200, None}}
        return said >= set(fault.instances)

    async def all_ready(self) -> bool:
        now = time.monotonic()
        fresh = {one.server: one for one in self._said if one.began > now - FRESH_S}
        return all(server in fresh and fresh[server].status == 200 for server in self._servers)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Readiness]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            tasks = [asyncio.create_task(self._watch(http, server)) for server in self._servers]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, http: aiohttp.ClientSession, server: Server) -> None:
        while True:
            began = time.monotonic()
            status, problems = await self._ask(http, server)
            self._said.append(Said(server, began, time.monotonic(), status, problems))
            await asyncio.sleep(EVERY_S)

    @staticmethod
    async def _ask(http: aiohttp.ClientSession, server: Server) -> tuple[int | None, dict[str, str]]:
        try:
            async with http.get(f"{server.url}/ready") as answer:
                body: dict[str, Any] = await answer.json()
                return answer.status, body.get("problems", {})
        except (aiohttp.ClientError, TimeoutError):
            return None, {}

    def assert_truth(self, settled_at: float) -> None:
        """Ready before the fault and once all had recovered; unready in it, for the reason there was; never another."""
        for said in self._said:
            faults = [fault for fault in self._faults if said.server in fault.instances]
            certain = [fault for fault in faults if fault.certain <= said.began and said.ended <= fault.ended]
            touched = [fault for fault in faults if fault.began <= said.ended and said.began <= settled_at]
            if certain:
                assert said.status != 200, f"ready in the middle of a fault: {said}"
            if not touched:
                assert said.status == 200 or said.ended - said.began > PROMPT_S, f"unready without a fault: {said}"
            else:
                known = frozenset().union(*(fault.servers for fault in touched))
                assert set(said.problems) <= known, f"unready for a reason there was not: {said}"
