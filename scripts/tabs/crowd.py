"""The tabs of one process: opening and closing them, and checking that each hears everything once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter
from typing import Any

import aiohttp
import orjson

from scripts.tabs.credentials import Credentials
from scripts.tabs.histogram import Histogram
from scripts.tabs.tab import OPEN, Address, Tab
from scripts.tabs.users import User

CONNECTS_WITHIN_S = 15.0
HTTP_WITHIN_S = 15.0
VERSIONED = frozenset({b"balance:update", b"earnings:update"})


class Crowd:
    """The tabs of this process, what they have heard, and what they heard wrong."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.address: Address
        self.credentials: Credentials
        self.url = ""
        self.users: list[User] = []
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.connect_s = Histogram()
        self._opening: dict[Tab, asyncio.Future[None]] = {}
        self._milestone: tuple[int, asyncio.Future[None]] | None = None
        self.forget()

    def forget(self) -> None:
        """Count from nothing."""
        self.events = 0
        self.by_event: Counter[bytes] = Counter()
        self.lost = 0
        self.late = 0
        """Behind a younger one: two processes may publish in the other order than they committed. Clients drop it."""
        self.twice = 0
        self.latency_s: dict[str, Histogram] = {}
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def delivered(self, what: str, seconds: float) -> None:
        self.latency_s.setdefault(what, Histogram()).add(seconds)

    # -- what tabs tell ------------------------------------------------------------------------------------------

    def on_open(self, tab: Tab) -> None:
        self.opened += 1
        self.connect_s.add(time.perf_counter() - tab.opened_at)
        self._settle_opening(tab)

    def on_closed(self, tab: Tab, why: str) -> None:
        self.closed[why] += 1
        if tab.sid:
            self.opened -= 1
        else:
            self._settle_opening(tab)

    def _settle_opening(self, tab: Tab) -> None:
        settled = self._opening.get(tab)
        if settled is not None and not settled.done():
            settled.set_result(None)

    def on_event(self, tab: Tab, payload: bytes) -> None:
        self.events += 1
        name = payload[4 : payload.index(b'"', 4)]
        self.by_event[name] += 1
        if name in VERSIONED:
            self._check(tab, name, orjson.loads(payload[2:])[1])
        user: User = tab.user
        if user.expected:
            for what, seconds in user.heard(name):
                self.delivered(what, seconds)
        if self._milestone is not None and self.events >= self._milestone[0] and not self._milestone[1].done():
            self._milestone[1].set_result(None)

    def _check(self, tab: Tab, name: bytes, data: dict[str, Any]) -> None:
        version, newest = data["version"], tab.versions.get(name)
        if data.get("reason") == "snapshot":
            tab.versions[name] = tab.snapshots[name] = max(version, newest or 0)
            return
        if version in (missing := tab.missing.get(name, ())):
            missing.remove(version)
            self.lost -= 1
            self.late += 1
            return
        if version <= tab.snapshots.get(name, 0):
            return  # it was on its way when the snapshot was read, which has it: clients drop it
        if newest is not None and version <= newest:
            self.twice += 1
            return
        if newest is not None and version > newest + 1:
            tab.missing.setdefault(name, set()).update(range(newest + 1, version))
            self.lost += version - newest - 1
        tab.versions[name] = version
        if data.get("reason") == "grant" and (sent_at := tab.user.granted_at.get(version)) is not None:
            self.delivered("balance:update", time.perf_counter() - sent_at)

    # -- what it is told -----------------------------------------------------------------------------------------

    async def be(
        self, *, url: str, crowd: int, users: list[str], tabs_each: int, credentials: dict[str, Any], sources: int = 1
    ) -> None:
        """Become these users, and know how they prove it; no tab is open yet."""
        self.address = Address(url)
        self.url = url.rstrip("/")
        self.credentials = Credentials(self.url, self.http, **credentials)
        self.users = [User(name) for name in users]
        for user, auth in zip(self.users, await self.credentials.of([user.name for user in self.users]), strict=True):
            user.auth = auth
        self._tabs_each = tabs_each
        self.opened = 0
        self.closed = Counter()
        self.connect_s = Histogram()
        # One address has some 28,000 ports to connect from; loopback has addresses to spare.
        loopback = sys.platform == "linux" and self.address.host in {"127.0.0.1", "localhost"}
        self._sources = itertools.cycle([(f"127.0.{crowd}.{1 + n}", 0) for n in range(sources)] if loopback else [None])

    async def open(self, *, per_s: float | None = None, in_flight: int = 100) -> None:
        """Open every user's tabs, so many a second at the most."""
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()
        room = asyncio.Semaphore(in_flight)
        started_at = time.perf_counter()
        wanted = [user for _ in range(self._tabs_each) for user in self.users]

        async def connect(user: User) -> None:
            async with room:
                await self.connect(user)

        for number, user in enumerate(wanted):
            if per_s and (early_s := started_at + number / per_s - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            await room.acquire()
            room.release()
            task = loop.create_task(connect(user))
            pending.add(task)
            task.add_done_callback(pending.discard)
        if pending:
            await asyncio.wait(set(pending))
        for user in self.users:
            user.tabs = [tab for tab in user.tabs if tab.state == OPEN]

    async def connect(self, user: User) -> None:
        """Open one more tab of the user; counted in `closed` where that fails."""
        loop = asyncio.get_running_loop()
        tab = Tab(self, self.address, user, user.auth, time.perf_counter())
        user.tabs.append(tab)
        settled = self._opening[tab] = loop.create_future()
        try:
            async with asyncio.timeout(CONNECTS_WITHIN_S):
                await loop.create_connection(
                    lambda: tab,
                    self.address.host,
                    self.address.port,
                    ssl=self.address.tls or None,
                    local_addr=next(self._sources),
                )
                await settled
        except (OSError, TimeoutError) as error:
            self.closed[str(error) or "no answer in time"] += 1
            tab.give_up()
        finally:
            del self._opening[tab]

    async def heard(self, *, each: int, within_s: float) -> bool:
        """Wait until so many events have come for each open tab since `forget`."""
        events = each * self.opened
        self._milestone = (events, asyncio.get_running_loop().create_future())
        try:
            if self.events < events:
                async with asyncio.timeout(within_s):
                    await self._milestone[1]
        except TimeoutError:
            return False
        finally:
            self._milestone = None
        return True

    async def settle(self, *, within_s: float) -> None:
        """Wait until nothing comes any more; what the tabs then lack, by the server's word, was lost."""
        deadline = time.perf_counter() + within_s
        seen = -1
        while seen != self.events and time.perf_counter() < deadline:
            seen = self.events
            await asyncio.sleep(min(0.5, within_s))
        for user in self.users:
            with contextlib.suppress(TimeoutError, ConnectionError, IndexError):
                answer = await asyncio.wait_for(user.tabs[0].ask("balance:get", {}), HTTP_WITHIN_S)
                if answer.get("ok"):
                    self.lost += sum(
                        max(0, answer["version"] - tab.versions.get(b"balance:update", answer["version"]))
                        for tab in user.tabs
                        if tab.state == OPEN
                    )

    async def figures(self) -> dict[str, Any]:
        return {
            "opened": self.opened,
            "closed": dict(self.closed),
            "connect_s": self.connect_s.to_json(),
            "events": self.events,
            "by_event": {name.decode(): count for name, count in self.by_event.items()},
            "lost": self.lost,
            "late": self.late,
            "twice": self.twice,
            "latency_s": {what: histogram.to_json() for what, histogram in self.latency_s.items()},
            "done": dict(self.done),
            "failures": dict(self.failures),
        }

    async def recount(self) -> None:
        self.forget()

    async def close(self) -> None:
        """Close every tab."""
        for number, tab in enumerate(tab for user in self.users for tab in user.tabs):
            tab.close()
            if number % 100 == 99:
                await asyncio.sleep(0)
        self.users = []
        self.opened = 0
