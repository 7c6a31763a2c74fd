"""What the server spends: of processes on this machine from /proc, of one elsewhere from its /metrics."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from scripts.tabs.processes import Cost, cost, listening_on

WITHIN_S = 3.0


class ServerSide(Protocol):
    async def cost(self) -> Cost:
        """CPU seconds since its start, and memory now; zeros where nobody says."""

    def described(self) -> str: ...


class Local:
    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    async def cost(self) -> Cost:
        return cost(self._pids)

    def described(self) -> str:
        return "pid " + ", ".join(map(str, self._pids))


class Remote:
    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/") + "/metrics"
        self._http = http
        self._said = False

    async def cost(self) -> Cost:
        values: dict[str, float] = {}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._http.get(self._url) as answer:
                for line in (await answer.text()).splitlines():
                    if line.startswith(("process_cpu_seconds_total ", "process_resident_memory_bytes ")):
                        name, _, value = line.partition(" ")
                        values[name] = float(value)
        self._said = self._said or bool(values)
        return Cost(values.get("process_cpu_seconds_total", 0.0), int(values.get("process_resident_memory_bytes", 0)))

    def described(self) -> str:
        return self._url if self._said else "unknown: no local process, and no process_* in its /metrics"


@asynccontextmanager
async def server_side(url: str, pids: list[int] | None) -> AsyncIterator[ServerSide]:
    """Of the processes named, else of those that listen here where the URL points, else by /metrics."""
    parts = urlsplit(url)
    if pids is None and _here(parts.hostname or ""):
        pids = listening_on(parts.port or (443 if parts.scheme == "https" else 80))
    if pids:
        yield Local(pids)
        return
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as http:
        yield Remote(url, http)


def _here(host: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    return False
