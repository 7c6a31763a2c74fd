"""A user of a load test: some tabs, and what they are waiting to hear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from scripts.tabs.tab import OPEN, Tab


class Expected:
    """An event that so many tabs are to hear; `all_heard` when they have. `since` is when its cause was sent."""

    __slots__ = ("all_heard", "left", "since", "what")

    def __init__(self, what: str, left: int) -> None:
        self.what = what
        self.left = left
        self.since: float | None = None
        self.all_heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class User:
    __slots__ = ("auth", "busy", "expected", "granted_at", "name", "tabs", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.auth: dict[str, Any] = {}
        self.tabs: list[Tab] = []
        self.version = 0
        """Of the wallet, by the last grant's answer or by what the tabs heard."""
        self.busy = False
        self.granted_at: dict[int, float] = {}
        """When the grant was asked for that makes this version."""
        self.expected: dict[bytes, Expected] = {}

    def open_tabs(self) -> int:
        return sum(tab.state == OPEN for tab in self.tabs)

    def expect(self, event: str, *, now: bool = True) -> Expected:
        """Expect it in every open tab, because of what happens now, or else when `since` is set."""
        expected = self.expected[event.encode()] = Expected(event, self.open_tabs())
        if now:
            expected.since = time.perf_counter()
        return expected

    def heard(self, name: bytes) -> Iterator[tuple[str, float]]:
        """One of the tabs has heard `name`: how long that took, if it was expected."""
        expected = self.expected.get(name)
        if expected is None:
            return
        expected.left -= 1
        if expected.since is not None:
            yield expected.what, time.perf_counter() - expected.since
        if expected.left <= 0:
            del self.expected[name]
            if not expected.all_heard.done():
                expected.all_heard.set_result(None)
