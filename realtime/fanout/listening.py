"""The connection to Redis that listens.

A process subscribes to a channel for each room it has members of, and to a few of its own, so Redis itself sends a
message only where somebody waits for it.

A message carries its sender's tag and a number that grows by one: what is not newer than what last came from that
sender is dropped, and so is the echo of one's own. Messages of a process thus arrive in order and at most once, though
after a lost connection it sends again what Redis did not acknowledge. What was published while the subscription was
interrupted is missed; that, or a sender's word that it lost some (`GAP`), is told to `on_gap`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis

from realtime.fanout.channels import Channels
from realtime.fanout.messages import BODY, GAP, KIND, NUMBER, PROBE, TAG_LENGTH, Message
from realtime.fanout.redis_link import Backoff, Link, RedisError, command, connect
from realtime.fanout.stats import Stats

SUBSCRIBE_WAIT_S = 2.0
ANSWER_WITHIN_S = 5.0
SENDERS_REMEMBERED = 4_096
CHANNELS_A_COMMAND = 1_000


class Listener:
    """`on_messages` gets what arrived together, in order; `on_stock` a message in python-socketio's own format."""

    def __init__(
        self,
        url: str,
        *,
        tag: bytes,
        channels: Channels,
        counters: Stats,
        on_messages: Callable[[list[Message]], None],
        on_stock: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._url = url
        self._tag = tag
        self._channels = channels
        self._counters = counters
        self._on_messages = on_messages
        self._on_stock = on_stock
        self._on_gap = on_gap
        self.own_channel = channels.of_process(tag.decode())
        self.alive_channel = b""
        """Named after this connection: whoever finds it subscribed knows that the connection's subscriptions stand."""
        self.hearing = asyncio.Event()
        self.heard_at = 0.0
        """When this process last heard its own probe, by the event loop's clock."""
        self.trouble = "it was not reached yet"
        self._link: Link | None = None
        self._connections = 0
        self._refusal: str | None = None
        self._reads = 0
        self._gaps_count = False
        self._late: set[bytes] = set()
        """Channels that somebody has stopped waiting for: what was published before they are acknowledged is missed."""
        self._subscribed: dict[bytes, bool] = {}
        """What is wanted, and whether Redis has acknowledged it and it is still wanted."""
        self._asking: list[bytes] = []
        self._waiters: dict[bytes, asyncio.Future[None]] = {}
        self._left: dict[bytes, float] = {}
        self._newest: dict[bytes, int] = {}

    # -- what is wanted ------------------------------------------------------------------------------------------

    def subscribe(self, channel: bytes) -> bool:
        """Want what is published on `channel`. Whether it was left only moments ago."""
        returned = self._left.pop(channel, None) is not None
        if not self._subscribed.get(channel, False) and channel not in self._asking:
            self._subscribed[channel] = False
            if not self._asking:
                asyncio.get_running_loop().call_soon(self._ask)
            self._asking.append(channel)
        return returned

    def unsubscribe(self, channel: bytes) -> None:
        """No longer want it; kept for a while, since people reload pages."""
        self._left[channel] = asyncio.get_running_loop().time()

    async def subscribed(self, channel: bytes) -> None:
        """Wait until what is published from now on arrives; not while Redis is away (a gap is told when it is back)."""
        if self._subscribed.get(channel) or self._link is None:
            return
        waiter = self._waiters.get(channel)
        if waiter is None:
            waiter = self._waiters[channel] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(asyncio.shield(waiter), SUBSCRIBE_WAIT_S)
        except TimeoutError:
            self._late.add(channel)

    def surely_subscribed(self, channel: bytes) -> bool:
        """Whether this process hears it for certain. Its own channel never counts: it brings back probes."""
        return self._subscribed.get(channel, False) and channel != self.own_channel

    def _ask(self) -> None:
        asked, self._asking = self._asking, []
        if self._link is not None:
            _send(self._link, b"SUBSCRIBE", asked)

    async def drop_left(self, before: float, commands_done: Callable[[], Awaitable[None]]) -> None:
        """End the subscriptions to what was left before then, unless somebody comes back meanwhile."""
        gone = [channel for channel, at in self._left.items() if at < before]
        link = self._link
        if not gone or link is None:
            return
        for channel in gone:
            self._subscribed[channel] = False
        # Commands in flight still count on the subscription: it ends after them.
        await commands_done()
        if link is not self._link:
            return
        still_gone = [channel for channel in gone if self._left.get(channel, before) < before]
        for channel in still_gone:
            del self._left[channel]
            del self._subscribed[channel]
        _send(link, b"UNSUBSCRIBE", still_gone)

    # -- the connection ------------------------------------------------------------------------------------------

    async def keep_connected(self) -> None:
        backoff = Backoff()
        while True:
            try:
                link = await connect(self._url, f"callmeter-listen-{self._tag.decode()}")
            except (OSError, RedisError) as error:
                self.trouble = str(error) or type(error).__name__
                await backoff.pause()
                continue
            stood = await self._acknowledged(self._subscribe_to_all(link), link)
            if stood:
                backoff.reset()
                self.heard_at = asyncio.get_running_loop().time()
                self.hearing.set()
                if self._gaps_count:
                    self._on_gap()
                self._gaps_count = True
                await link.lost
            self._link = None
            self.hearing.clear()
            self.trouble = self._refusal or "the connection was lost"
            for channel in self._subscribed:
                self._subscribed[channel] = False
            self._let_waiters_go()
            if not stood:  # a Redis that has as many clients as it may lets us in and throws us out
                await backoff.pause()

    async def _acknowledged(self, last: asyncio.Future[None], link: Link) -> bool:
        """Whether Redis has taken all subscriptions. A link it says nothing more on is given up."""
        while not (last.done() or link.lost.done()):
            read = self._reads
            await asyncio.wait((last, link.lost), timeout=ANSWER_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            if self._reads == read and not link.lost.done():
                self._refuse("it does not answer a subscription")
                await link.lost
        return not link.lost.done()

    def _refuse(self, trouble: str) -> None:
        self._refusal = trouble
        self.abort()

    def _subscribe_to_all(self, link: Link) -> asyncio.Future[None]:
        """Want on a new connection what is wanted. The answer is done when all of it is acknowledged."""
        self._subscribed.pop(self.alive_channel, None)  # else commands from before would believe it stands
        self._refusal = None
        self._late.clear()  # a gap is told when the subscriptions stand again
        self._connections += 1
        self.alive_channel = b"%b:%d" % (self.own_channel, self._connections)
        everything = [
            self.alive_channel,
            self.own_channel,
            self._channels.everybody,
            self._channels.stock,
            *(channel for channel in self._subscribed if channel not in self._left),
        ]
        self._subscribed = dict.fromkeys(everything, False)
        self._left.clear()
        self._asking = []
        last = self._waiters[everything[-1]] = asyncio.get_running_loop().create_future()
        link.on_replies = self._on_replies
        self._link = link
        _send(link, b"SUBSCRIBE", everything)
        return last

    def gaps_count(self) -> None:
        """From here on there may be tabs, which a later subscription was not there for."""
        self._gaps_count = True

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort()

    def end(self) -> None:
        """Leave, once `keep_connected` is cancelled."""
        self.abort()
        self._link = None
        self._let_waiters_go()

    def _let_waiters_go(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_result(None)

    # -- what arrives --------------------------------------------------------------------------------------------

    def _on_replies(self, replies: list[Any]) -> None:
        arrived: list[Message] = []
        stock = self._channels.stock
        self._reads += 1
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self._refuse(f"it refused a subscription: {reply}")
            if not isinstance(reply, list) or len(reply) < 3:
                continue
            what, channel, payload = reply
            if what == b"message":
                if channel == stock:
                    if arrived:
                        self._on_messages(arrived)
                        arrived = []
                    self._on_stock(payload)
                elif (message := self._opened(channel, payload)) is not None:
                    arrived.append(message)
            elif what == b"subscribe":
                if channel in self._subscribed:
                    self._subscribed[channel] = True
                if channel in self._late:
                    self._late.discard(channel)
                    self._on_gap()
                if (waiter := self._waiters.pop(channel, None)) is not None and not waiter.done():
                    waiter.set_result(None)
        if arrived:
            self._on_messages(arrived)

    def _opened(self, channel: bytes, payload: bytes) -> Message | None:
        """The message, unless it is one's own, old, or no message for rooms."""
        sender, number, kind = payload[:TAG_LENGTH], int.from_bytes(payload[NUMBER], "big"), payload[KIND]
        if sender == self._tag:
            if kind == PROBE:
                self.heard_at = asyncio.get_running_loop().time()
                self._counters.redis_lag_s = time.perf_counter() - float(payload[BODY])
            return None
        if number <= self._newest.get(sender, 0):
            return None
        if sender not in self._newest and len(self._newest) >= SENDERS_REMEMBERED:
            del self._newest[next(iter(self._newest))]
        self._newest[sender] = number
        self._counters.redis_received += 1
        if kind == GAP:
            self._on_gap()
            return None
        return Message(channel, sender, kind, payload[BODY])


def _send(link: Link, what: bytes, channels: list[bytes]) -> None:
    for start in range(0, len(channels), CHANNELS_A_COMMAND):
        link.send(command([what, *channels[start : start + CHANNELS_A_COMMAND]]))
