"""Between processes: Redis publish/subscribe.

Two connections, one to publish and one to listen, each kept by a task that connects again with backoff; `publishing`
and `listening` tell how a message gets there once, in order, and only where somebody waits for it.

This is what the two are together. Once a second the process publishes a probe to itself: while its subscription stands,
yet does not bring back the probe, it counts as deaf, says so, and connects again. Whatever may have been missed, here
or on the way, ends in `on_gap`, which tells the tabs anew where they stand: one at a time, however many gaps come.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import structlog

from realtime.fanout.channels import Channels
from realtime.fanout.listening import Listener
from realtime.fanout.messages import PROBE, Message
from realtime.fanout.publishing import Publisher
from realtime.fanout.redis_link import server_named
from realtime.fanout.stats import Stats

log = structlog.get_logger()

PROBE_EVERY_S = 1.0
DEAF_AFTER_S = 5.0
LINGER_S = 10.0
"""A room's channel is kept this long after its last member left: people reload pages."""
DROP_LEFT_EVERY_S = 1.0
STOP_WITHIN_S = 1.0


class Bus:
    """`on_messages` gets what arrived together, in order; `on_stock` a message in python-socketio's own format."""

    def __init__(
        self,
        url: str,
        *,
        tag: str,
        channels: Channels,
        counters: Stats,
        on_messages: Callable[[list[Message]], None],
        on_stock: Callable[[bytes], None],
        on_gap: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.url = url
        self._counters = counters
        self._listener = Listener(
            url,
            tag=tag.encode(),
            channels=channels,
            counters=counters,
            on_messages=on_messages,
            on_stock=on_stock,
            on_gap=self._tell_gap,
        )
        self._publisher = Publisher(
            url, tag=tag.encode(), channels=channels, counters=counters, listener=self._listener
        )
        self._on_gap = on_gap
        self._gap_wanted = False
        self._gap_running = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self, wait_s: float) -> None:
        """Connect, and go on without Redis if that takes longer than `wait_s`."""
        if not self._tasks and not self._stopping:
            connections = self._publisher.keep_connected, self._listener.keep_connected
            for work in (*connections, self._keep_watch, self._keep_dropping_left):
                self._start(work())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listener.hearing.wait(), wait_s)
        self._listener.gaps_count()

    async def stop(self) -> None:
        """Send what waits, if Redis takes it, and leave."""
        self._publisher.flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._publisher.acknowledged(), STOP_WITHIN_S)
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._publisher.end()
        self._listener.end()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- messages ------------------------------------------------------------------------------------------------

    def publish(self, channels: Iterable[bytes], kind: bytes, body: bytes) -> None:
        """Send to whoever listens to one of `channels`, once each. Never fails; what is lost is announced."""
        self._publisher.publish(channels, kind, body)

    @property
    def crowded(self) -> bool:
        return self._publisher.crowded

    async def room(self) -> None:
        """Wait until less is queued, or Redis is gone."""
        await self._publisher.room()

    def subscribe(self, channel: bytes) -> bool:
        """Want what is published on `channel`. Whether it was left only moments ago."""
        return self._listener.subscribe(channel)

    def unsubscribe(self, channel: bytes) -> None:
        """No longer want it; kept for a while, since people reload pages."""
        self._listener.unsubscribe(channel)

    async def subscribed(self, channel: bytes) -> None:
        """Wait until what is published from now on arrives; not while Redis is away (a gap is told when it is back)."""
        await self._listener.subscribed(channel)

    # -- health --------------------------------------------------------------------------------------------------

    def deaf(self) -> str | None:
        """Why messages of other processes may not arrive here; None when they do."""
        if not self._listener.hearing.is_set():
            return f"not subscribed to Redis at {server_named(self.url)}: {self._listener.trouble}"
        silent_s = asyncio.get_running_loop().time() - self._listener.heard_at
        if silent_s > DEAF_AFTER_S:
            return f"subscribed to Redis, but its own probe has not come back for {silent_s:.0f} s"
        return None

    async def _keep_watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            slept_at = loop.time()
            await asyncio.sleep(PROBE_EVERY_S)
            now = loop.time()
            # A process that stood still is not deaf; nor has it heard what is still to come.
            stood_still_s = now - slept_at - PROBE_EVERY_S
            self._listener.heard_at = min(now, self._listener.heard_at + stood_still_s)
            if self._publisher.connected:
                self._publisher.publish([self._listener.own_channel], PROBE, b"%.6f" % time.perf_counter())
            else:
                self._publisher.drop_old()
            silent_s = now - self._listener.heard_at
            if self._listener.hearing.is_set() and silent_s > DEAF_AFTER_S + PROBE_EVERY_S:
                log.error("deaf: connecting to Redis again", silent_s=round(silent_s, 1))
                self._listener.abort()
                self._publisher.abort()

    async def _keep_dropping_left(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(DROP_LEFT_EVERY_S)
            await self._listener.drop_left(loop.time() - LINGER_S, self._publisher.acknowledged)

    def _tell_gap(self) -> None:
        self._counters.gaps += 1
        if self._on_gap is None:
            return
        self._gap_wanted = True
        if not self._gap_running:
            self._gap_running = True
            self._start(self._gap())

    async def _gap(self) -> None:
        assert self._on_gap is not None
        try:
            while self._gap_wanted:
                self._gap_wanted = False
                try:
                    await self._on_gap()
                except Exception:
                    log.exception("telling the tabs about missed messages failed")
        finally:
            self._gap_running = False
