"""Between processes: Redis publish/subscribe.

A process subscribes to a channel for each room it has members of, and to a few of its own, so Redis itself sends a
message only where somebody waits for it. Two connections, one to publish and one to listen, each kept by a task that
connects again with backoff.

Publishing. What is published within one turn of the event loop goes out as one command: a script that publishes each
message on its channel. The script also leaves out messages nobody else waits for: it asks Redis how many subscribe to
the channel, and subtracts this process itself where its own subscription is known to stand. That knowledge is exact:
it is about one connection (its `alive` channel, named after the connection, is checked in the same script), a room
counts as subscribed only between Redis's acknowledgement and the decision to unsubscribe, and Redis runs scripts one at
a time. Where the script cannot be used (a cluster or a replica, where another server may hold subscribers; a proxy that
knows no scripts) each message is a PUBLISH in one pipeline, and the echo of one's own is dropped by its tag.

Order and repetition. A message carries its sender's tag and a number that grows by one. After a lost connection
whatever Redis did not acknowledge is sent again in the old order with the old numbers; a receiver drops what is not
newer than what it last had from that sender. So a process's messages arrive in order and at most once.

Loss. What could not be delivered to Redis within seconds is given up, and said so to everybody (`GAP`) when Redis is
back; a process whose own subscription was interrupted knows that by itself. Either way `on_gap` is called. A process
whose subscription stands, yet does not bring back its own probe, counts as deaf and connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import hiredis
import structlog

from realtime.fanout.channels import Channels
from realtime.fanout.messages import BODY, GAP, KIND, NUMBER, PROBE, TAG_LENGTH, Message, payload_of
from realtime.fanout.redis_link import CONNECT_TIMEOUT_S, Link, RedisError, command, connect, server_named
from realtime.fanout.stats import Stats

log = structlog.get_logger()

DEAF_AFTER_S = 5.0
PROBE_EVERY_S = 1.0
LINGER_S = 10.0
"""A room's channel is kept this long after its last member left: people reload pages."""
KEEP_S = 5.0
"""Messages that Redis has not taken after this are given up: a call that rang then is not to ring now."""
QUEUE_BYTES = 16_000_000
CROWDED_BYTES = 1_000_000
IN_FLIGHT_BYTES = 4_000_000
MESSAGES_A_COMMAND = 4_000
"""A billed batch of 500 calls fits; Redis does nothing else meanwhile, some milliseconds."""
BACKOFF_S = (0.1, 5.0)
SUBSCRIBE_WAIT_S = 2.0
STOP_WITHIN_S = 1.0

_SCRIPT = b"""
local alive = redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2]
for i = 2, #ARGV, 3 do
    local here = 0
    if alive > 0 and ARGV[i + 1] == '1' then here = 1 end
    if redis.call('PUBSUB', 'NUMSUB', ARGV[i])[2] > here then
        redis.call('PUBLISH', ARGV[i], ARGV[i + 2])
    end
end
return 1
"""


class Queued(NamedTuple):
    channel: bytes
    payload: bytes
    at: float


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
        self.channels = channels
        self.counters = counters
        self._tag = tag.encode()
        self._on_messages = on_messages
        self._on_stock = on_stock
        self._on_gap = on_gap
        self._own_channel = channels.of_process(tag)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        # publishing
        self._number = 0
        self._publisher: Link | None = None
        self._scripted = b""
        self._waiting: list[Queued] = []
        self._waiting_bytes = 0
        self._in_flight: deque[tuple[list[Queued], int]] = deque()
        self._in_flight_bytes = 0
        self._commands_sent = 0
        self._commands_done = 0
        self._awaited: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._flush_planned = False
        self._turn_at = 0.0
        self._losing = False
        self._room_made: asyncio.Future[None] | None = None
        # listening
        self._listener: Link | None = None
        self._connections = 0
        self._alive_channel = b""
        self._subscribed: dict[bytes, bool] = {}
        self._asking: list[bytes] = []
        self._waiters: dict[bytes, asyncio.Future[None]] = {}
        self._left: dict[bytes, float] = {}
        self._hearing = asyncio.Event()
        self._was_hearing = False
        self._newest: dict[bytes, int] = {}
        # health
        self._trouble = "it was not reached yet"
        self._refusal = ""
        self._heard_at = 0.0
        self._gap_wanted = False
        self._gap_running = False

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self, wait_s: float) -> None:
        """Connect, and go on without Redis if that takes longer than `wait_s`."""
        if not self._tasks and not self._stopping:
            loop = asyncio.get_running_loop()
            self._heard_at = loop.time()
            for work in (self._keep_publishing, self._keep_listening, self._keep_watch):
                self._start(work())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hearing.wait(), wait_s)
        self._was_hearing = True  # from here on there may be tabs, which a later subscription was not there for

    async def stop(self) -> None:
        """Send what waits, if Redis takes it, and leave."""
        if self._publisher is not None and self._waiting:
            self._flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._acknowledged(), STOP_WITHIN_S)
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in (self._publisher, self._listener):
            if link is not None:
                link.abort()
        self._publisher = self._listener = None
        self._let_waiters_go()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def deaf(self) -> str | None:
        """Why messages of other processes may not arrive here; None when they do."""
        if not self._hearing.is_set():
            return f"not subscribed to Redis at {server_named(self.url)}: {self._trouble}"
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        if silent_s > DEAF_AFTER_S:
            return f"subscribed to Redis, but its own probe has not come back for {silent_s:.0f} s"
        return None

    # -- publishing ----------------------------------------------------------------------------------------------

    def publish(self, channels: Iterable[bytes], kind: bytes, body: bytes) -> None:
        """Send to whoever listens to one of `channels`, once each. Never fails; what is lost is announced."""
        self._number += 1
        payload = payload_of(self._tag, kind, body, self._number)
        if not self._flush_planned:
            self._flush_planned = True
            loop = asyncio.get_running_loop()  # asked once a turn: it costs a system call
            self._turn_at = loop.time()
            loop.call_soon(self._flush)
        for channel in channels:
            self._waiting.append(Queued(channel, payload, self._turn_at))
            self._waiting_bytes += len(payload)
            self.counters.redis_published += 1
        if self._waiting_bytes > QUEUE_BYTES:
            self._give_up(len(self._waiting))

    @property
    def crowded(self) -> bool:
        return self._waiting_bytes > CROWDED_BYTES and self._publisher is not None

    async def room(self) -> None:
        """Wait until less is queued, or Redis is gone."""
        while self.crowded:
            if self._room_made is None:
                self._room_made = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room_made)

    def _flush(self) -> None:
        self._flush_planned = False
        link = self._publisher
        while link is not None and self._waiting and self._in_flight_bytes < IN_FLIGHT_BYTES:
            batch = self._waiting[:MESSAGES_A_COMMAND]
            del self._waiting[: len(batch)]
            size_bytes = sum(len(queued.payload) for queued in batch)
            self._waiting_bytes -= size_bytes
            self._in_flight_bytes += size_bytes
            self._commands_sent += 1
            if self._scripted and (len(batch) > 1 or self._hears(batch[0].channel)):
                parts = [b"EVALSHA", self._scripted, b"0", self._alive_channel]
                for channel, payload, _ in batch:
                    parts += (channel, b"1" if self._hears(channel) else b"0", payload)
                self._in_flight.append((batch, 1))
                link.send(command(parts))
            else:
                self._in_flight.append((batch, len(batch)))
                link.send(b"".join([command((b"PUBLISH", channel, payload)) for channel, payload, _ in batch]))
        if not self.crowded:
            self._make_room()

    def _hears(self, channel: bytes) -> bool:
        """Whether this process subscribes to it for certain. Its own channel never counts: it brings back probes."""
        return self._subscribed.get(channel, False) and channel != self._own_channel

    def _make_room(self) -> None:
        if self._room_made is not None and not self._room_made.done():
            self._room_made.set_result(None)
        self._room_made = None

    async def _acknowledged(self) -> None:
        """Wait until Redis has carried out every command sent so far, or the connection to it is over."""
        if self._commands_done < self._commands_sent:
            done = asyncio.get_running_loop().create_future()
            self._awaited.append((self._commands_sent, done))
            await done

    def _tell_acknowledged(self) -> None:
        while self._awaited and self._awaited[0][0] <= self._commands_done:
            _, done = self._awaited.popleft()
            if not done.done():
                done.set_result(None)

    def _give_up(self, count: int) -> None:
        """Lose the oldest `count` messages that wait."""
        if not count:
            return
        lost = self._waiting[:count]
        del self._waiting[:count]
        self._waiting_bytes -= sum(len(queued.payload) for queued in lost)
        self.counters.redis_lost += count
        if not self._losing:
            self._losing = True
            log.warning("messages for other processes are lost until Redis is back", trouble=self._trouble)
        self._make_room()

    async def _keep_publishing(self) -> None:
        pause_s = BACKOFF_S[0]
        while True:
            try:
                link = await connect(self.url, f"callmeter-publish-{self._tag.decode()}")
                self._scripted = await self._script_on(link)
            except (OSError, RedisError) as error:
                self._trouble = str(error) or type(error).__name__
                self._drop_old()
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  (spreads the load)
                pause_s = min(pause_s * 2, BACKOFF_S[1])
                continue
            link.on_replies = self._on_published
            self._drop_old()
            self._publisher = link
            if self._losing:
                self._losing = False
                log.info("messages reach other processes again; every tab is told where it stands")
                self.publish([self.channels.everybody], GAP, b"")
            self._flush()
            await link.lost
            self._publisher = None
            self._trouble = f"it refused a publication: {self._refusal}" if self._refusal else "the connection was lost"
            self._commands_done = self._commands_sent
            self._tell_acknowledged()
            again = [queued for batch, _ in self._in_flight for queued in batch]
            self._in_flight.clear()
            self._in_flight_bytes = 0
            self._waiting[:0] = again
            self._waiting_bytes += sum(len(queued.payload) for queued in again)
            self._make_room()
            if self._refusal:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  (as above)
                pause_s = min(pause_s * 2, BACKOFF_S[1])
            else:
                pause_s = BACKOFF_S[0]

    @staticmethod
    async def _script_on(link: Link) -> bytes:
        """The script's name, if this server may decide who else listens; else nothing."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                info = await link.ask(b"INFO", b"server")
                role = await link.ask(b"ROLE")
                if b"redis_mode:" not in info or b"redis_mode:cluster" in info or role[0] != b"master":
                    return b""
                name: bytes = await link.ask(b"SCRIPT", b"LOAD", _SCRIPT)
                await link.ask(b"EVALSHA", name, b"0", b"nobody")
        except RedisError:
            return b""
        return name

    def _drop_old(self) -> None:
        oldest = asyncio.get_running_loop().time() - KEEP_S
        old = 0
        while old < len(self._waiting) and self._waiting[old].at < oldest:
            old += 1
        self._give_up(old)

    def _on_published(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply) != self._refusal:  # said once, however often it is tried again
                    log.error("Redis refused a publication", answer=str(reply))
                self._refusal = str(reply)
                if self._publisher is not None:
                    self._publisher.abort()  # what is in flight is sent again, in order, once the script is there again
                return
            batch, expected = self._in_flight[0]
            if expected > 1:
                self._in_flight[0] = batch, expected - 1
                continue
            self._in_flight.popleft()
            self._commands_done += 1
            self._refusal = ""
            if self._awaited:
                self._tell_acknowledged()
            self._in_flight_bytes -= sum(len(queued.payload) for queued in batch)
        if self._waiting:
            self._flush()

    # -- listening -----------------------------------------------------------------------------------------------

    def subscribe(self, channel: bytes) -> bool:
        """Want what is published on `channel`. Whether it was left only moments ago."""
        returned = self._left.pop(channel, None) is not None
        if not self._subscribed.get(channel, False) and channel not in self._asking:
            self._subscribed[channel] = False
            self._ask_for(channel)
        return returned

    def unsubscribe(self, channel: bytes) -> None:
        """No longer want it; kept for a while, since people reload pages."""
        self._left[channel] = asyncio.get_running_loop().time()

    async def subscribed(self, channel: bytes) -> None:
        """Wait until what is published from now on arrives; not while Redis is away (a gap is told when it is back)."""
        if self._subscribed.get(channel) or self._listener is None:
            return
        waiter = self._waiters.get(channel)
        if waiter is None:
            waiter = self._waiters[channel] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiter), SUBSCRIBE_WAIT_S)

    def _ask_for(self, channel: bytes) -> None:
        if not self._asking:
            asyncio.get_running_loop().call_soon(self._ask)
        self._asking.append(channel)

    def _ask(self) -> None:
        asked, self._asking = self._asking, []
        if self._listener is not None and asked:
            self._listener.send(command([b"SUBSCRIBE", *asked]))

    async def _keep_listening(self) -> None:
        pause_s = BACKOFF_S[0]
        while True:
            try:
                link = await connect(self.url, f"callmeter-listen-{self._tag.decode()}")
            except (OSError, RedisError) as error:
                self._trouble = str(error) or type(error).__name__
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  (spreads the load)
                pause_s = min(pause_s * 2, BACKOFF_S[1])
                continue
            pause_s = BACKOFF_S[0]
            self._connections += 1
            link.on_replies = self._on_pushed
            self._alive_channel = b"%b:%d" % (self._own_channel, self._connections)
            everything = [
                self._alive_channel,
                self._own_channel,
                self.channels.everybody,
                self.channels.stock,
                *(channel for channel in self._subscribed if channel not in self._left),
            ]
            self._subscribed = dict.fromkeys(everything, False)
            self._left.clear()
            self._asking = []
            last = asyncio.get_running_loop().create_future()
            self._waiters[everything[-1]] = last
            for start in range(0, len(everything), 1_000):
                link.send(command([b"SUBSCRIBE", *everything[start : start + 1_000]]))
            self._listener = link
            await asyncio.wait((last, link.lost), return_when=asyncio.FIRST_COMPLETED)
            if not link.lost.done():
                self._heard_at = asyncio.get_running_loop().time()
                self._hearing.set()
                if self._was_hearing:
                    self._tell_gap()
                self._was_hearing = True
                await link.lost
            self._listener = None
            self._hearing.clear()
            self._trouble = "the connection was lost"
            for channel in self._subscribed:
                self._subscribed[channel] = False
            self._let_waiters_go()

    def _let_waiters_go(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_result(None)

    def _on_pushed(self, pushes: list[Any]) -> None:
        arrived: list[Message] = []
        stock = self.channels.stock
        for push in pushes:
            if not isinstance(push, list) or len(push) < 3:
                continue
            what, channel, payload = push
            if what == b"message":
                if channel == stock:
                    if arrived:
                        self._hand(self._on_messages, arrived)
                        arrived = []
                    self._hand(self._on_stock, payload)
                elif (message := self._opened(channel, payload)) is not None:
                    arrived.append(message)
            elif what == b"subscribe":
                if channel in self._subscribed:
                    self._subscribed[channel] = True
                if (waiter := self._waiters.pop(channel, None)) is not None and not waiter.done():
                    waiter.set_result(None)
        if arrived:
            self._hand(self._on_messages, arrived)

    @staticmethod
    def _hand(take: Callable[[Any], None], what: Any) -> None:
        """A message nobody understands is passed over: it must not cost the subscription."""
        try:
            take(what)
        except Exception:
            log.exception("a message from Redis could not be taken")

    def _opened(self, channel: bytes, payload: bytes) -> Message | None:
        """The message, unless it is one's own, old, or no message for rooms."""
        sender, number, kind = payload[:TAG_LENGTH], int.from_bytes(payload[NUMBER], "big"), payload[KIND]
        if sender == self._tag:
            if kind == PROBE:
                self._heard_at = asyncio.get_running_loop().time()
                self.counters.redis_lag_s = time.perf_counter() - float(payload[BODY])
            return None
        if number <= self._newest.get(sender, 0):
            return None
        if sender not in self._newest and len(self._newest) >= 4_096:
            del self._newest[next(iter(self._newest))]
        self._newest[sender] = number
        self.counters.redis_received += 1
        if kind == GAP:
            self._tell_gap()
            return None
        return Message(channel, sender, kind, payload[BODY])

    # -- health --------------------------------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            now = asyncio.get_running_loop().time()
            if self._publisher is None:
                self._drop_old()
            else:
                self.publish([self._own_channel], PROBE, b"%.6f" % time.perf_counter())
            if self._hearing.is_set() and now - self._heard_at > DEAF_AFTER_S + PROBE_EVERY_S:
                log.error("deaf: connecting to Redis again", silent_s=round(now - self._heard_at, 1))
                for link in (self._listener, self._publisher):
                    if link is not None:
                        link.abort()
            await self._unsubscribe_left(now - LINGER_S)

    async def _unsubscribe_left(self, before: float) -> None:
        gone = [channel for channel, at in self._left.items() if at < before]
        if not gone or self._listener is None:
            return
        for channel in gone:
            self._subscribed[channel] = False
        # Commands in flight still count on the subscription: it ends after them.
        listener = self._listener
        await self._acknowledged()
        if listener is not self._listener:
            return
        still_gone = [channel for channel in gone if channel in self._left]
        for channel in still_gone:
            del self._left[channel]
            del self._subscribed[channel]
        for start in range(0, len(still_gone), 1_000):
            listener.send(command([b"UNSUBSCRIBE", *still_gone[start : start + 1_000]]))

    def _tell_gap(self) -> None:
        self.counters.gaps += 1
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
