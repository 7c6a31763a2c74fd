"""One timer for all sockets.

A task or a loop timer for each socket's next ping would cost more memory than the socket. Here each socket lies in the
bucket of the tick at which it next wants to be asked, and one loop timer walks the buckets. A deadline that moves later
(a pong came) needs no work: the socket is asked early, and says when to come again.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol


class Timed(Protocol):
    tick: int
    """Which bucket it lies in; `NOWHERE` when in none. Kept by the wheel."""

    def on_time(self, now: float) -> float | None:
        """Do what is due at `now` (the loop's time) and answer when to be asked again, or None for never."""


NOWHERE = -1


class TimerWheel:
    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self._buckets: dict[int, set[Timed]] = {}
        self._done = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def schedule(self, item: Timed, at: float) -> None:
        """Ask `item` at `at` (the loop's time, not earlier, at most a tick later) instead of whenever it was to be."""
        if item.tick != NOWHERE:
            self.cancel(item)
        if self._timer is None:
            self._start()
        tick = max(math.ceil(at / self.tick_s), self._done + 1)
        item.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item}
        else:
            bucket.add(item)

    def cancel(self, item: Timed) -> None:
        tick, item.tick = item.tick, NOWHERE
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.discard(item)
            if not bucket:  # of a deadline days ahead, say a token's, it would stay until then
                del self._buckets[tick]

    def stop(self) -> None:
        """Forget everybody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for bucket in self._buckets.values():
            for item in bucket:
                item.tick = NOWHERE
        self._buckets.clear()

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = math.floor(self._loop.time() / self.tick_s)
        self._timer = self._loop.call_at((self._done + 1) * self.tick_s, self._turn)

    def _turn(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        until = max(math.floor(now / self.tick_s), self._done + 1)
        while self._done < until:
            self._done += 1
            for item in self._buckets.pop(self._done, ()):
                if item.tick != self._done:  # moved or cancelled by one of those before it
                    continue
                item.tick = NOWHERE
                try:
                    again = item.on_time(now)
                except Exception as error:
                    self._loop.call_exception_handler({"message": "a timed action failed", "exception": error})
                    continue
                if again is not None and item.tick == NOWHERE:
                    self.schedule(item, again)
        if self._buckets:
            self._timer = self._loop.call_at((self._done + 1) * self.tick_s, self._turn)
        else:
            self._timer = None
