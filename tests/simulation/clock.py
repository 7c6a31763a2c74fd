"""An event loop whose time is virtual: when nobody can run, it leaps to the next moment somebody waits for.

An hour of waiting takes as long as what is done in it. With the ids and the chances seeded too, a run is the same every
time.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class Stuck(Exception):
    """Everybody waits for somebody else: no timer is left that would change that."""


class _NoSockets(selectors.SelectSelector):
    """Nothing is ever read or written; waiting is moving the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _NoSockets()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s
