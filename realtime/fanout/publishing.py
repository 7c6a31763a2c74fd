"""The connection to Redis that publishes.

What is published within one turn of the event loop goes out as one command: a script that publishes each message on its
channel. The script also leaves out messages nobody else waits for: it asks Redis how many subscribe to the channel, and
subtracts this process itself where its own subscription is known to stand. That knowledge is exact: it is about one
connection (its `alive` channel, named after the connection, is checked in the same script), a room counts as subscribed
only between Redis's acknowledgement and the decision to unsubscribe, and Redis runs scripts one at a time. Where the
script cannot be used (a cluster or a replica, where another server may hold subscribers; a proxy that knows no scripts)
each message is a PUBLISH in one pipeline, and the echo of one's own is dropped by its tag.

What Redis did not acknowledge before a connection was lost is sent again in the old order with the old numbers. What it
has not taken within seconds is given up, and said so to everybody (`GAP`) when Redis is back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import hiredis
import structlog

from realtime.fanout.channels import Channels
from realtime.fanout.listening import Listener
from realtime.fanout.messages import GAP, payload_of
from realtime.fanout.redis_link import CONNECT_TIMEOUT_S, Backoff, Link, RedisError, command, connect
from realtime.fanout.stats import Stats

log = structlog.get_logger()

KEEP_S = 5.0
"""Messages that Redis has not taken after this are given up: a call that rang then is not to ring now."""
QUEUE_BYTES = 16_000_000
CROWDED_BYTES = 1_000_000
IN_FLIGHT_BYTES = 4_000_000
MESSAGES_A_COMMAND = 4_000
"""A billed batch of 500 calls fits; Redis does nothing else meanwhile, some milliseconds."""

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


class Publisher:
    """`listener` says which channels this process subscribes to itself."""

    def __init__(self, url: str, *, tag: bytes, channels: Channels, counters: Stats, listener: Listener) -> None:
        self._url = url
        self._tag = tag
        self._channels = channels
        self._counters = counters
        self._listener = listener
        self._link: Link | None = None
        self._scripted = b""
        self._trouble = "it was not reached yet"
        self._refusal = ""
        self._losing = False
        self._number = 0
        self._waiting: list[Queued] = []
        self._waiting_bytes = 0
        self._in_flight: deque[tuple[list[Queued], int]] = deque()
        """Each command's messages, and how many answers it still waits for."""
        self._in_flight_bytes = 0
        self._commands_sent = 0
        self._commands_done = 0
        self._awaited: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._flush_planned = False
        self._turn_at = 0.0
        self._room_made: asyncio.Future[None] | None = None

    # -- sending -------------------------------------------------------------------------------------------------

    def publish(self, channels: Iterable[bytes], kind: bytes, body: bytes) -> None:
        """Send to whoever listens to one of `channels`, once each. Never fails; what is lost is announced."""
        self._number += 1
        payload = payload_of(self._tag, kind, body, self._number)
        if not self._flush_planned:
            self._flush_planned = True
            loop = asyncio.get_running_loop()  # asked once a turn: it costs a system call
            self._turn_at = loop.time()
            loop.call_soon(self.flush)
        for channel in channels:
            self._waiting.append(Queued(channel, payload, self._turn_at))
            self._waiting_bytes += len(payload)
            self._counters.redis_published += 1
        if self._waiting_bytes > QUEUE_BYTES:
            self._give_up(len(self._waiting))

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def crowded(self) -> bool:
        return self._waiting_bytes > CROWDED_BYTES and self._link is not None

    async def room(self) -> None:
        """Wait until less is queued, or Redis is gone."""
        while self.crowded:
            if self._room_made is None:
                self._room_made = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room_made)

    def flush(self) -> None:
        self._flush_planned = False
        link = self._link
        subscribed = self._listener.surely_subscribed
        while link is not None and self._waiting and self._in_flight_bytes < IN_FLIGHT_BYTES:
            batch = self._waiting[:MESSAGES_A_COMMAND]
            del self._waiting[: len(batch)]
            size_bytes = sum(len(queued.payload) for queued in batch)
            self._waiting_bytes -= size_bytes
            self._in_flight_bytes += size_bytes
            self._commands_sent += 1
            if self._scripted and (len(batch) > 1 or subscribed(batch[0].channel)):
                parts = [b"EVALSHA", self._scripted, b"0", self._listener.alive_channel]
                for channel, payload, _ in batch:
                    parts += (channel, b"1" if subscribed(channel) else b"0", payload)
                self._in_flight.append((batch, 1))
                link.send(command(parts))
            else:
                self._in_flight.append((batch, len(batch)))
                link.send(b"".join([command((b"PUBLISH", channel, payload)) for channel, payload, _ in batch]))
        if not self.crowded:
            self._make_room()

    def _make_room(self) -> None:
        if self._room_made is not None and not self._room_made.done():
            self._room_made.set_result(None)
        self._room_made = None

    # -- acknowledgement -----------------------------------------------------------------------------------------

    async def acknowledged(self) -> None:
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

    def _on_replies(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply) != self._refusal:  # said once, however often it is tried again
                    log.error("Redis refused a publication", answer=str(reply))
                self._refusal = str(reply)
                self.abort()  # what is in flight is sent again, in order, once the script is there again
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
            self.flush()

    # -- loss ----------------------------------------------------------------------------------------------------

    def drop_old(self) -> None:
        oldest = asyncio.get_running_loop().time() - KEEP_S
        old = 0
        while old < len(self._waiting) and self._waiting[old].at < oldest:
            old += 1
        self._give_up(old)

    def _give_up(self, count: int) -> None:
        """Lose the oldest `count` messages that wait."""
        if not count:
            return
        lost = self._waiting[:count]
        del self._waiting[:count]
        self._waiting_bytes -= sum(len(queued.payload) for queued in lost)
        self._counters.redis_lost += count
        if not self._losing:
            self._losing = True
            log.warning("messages for other processes are lost until Redis is back", trouble=self._trouble)
        self._make_room()
        if self._link is not None:  # it takes them, only slowly: no new connection would announce the loss
            self._announce_loss()

    def _announce_loss(self) -> None:
        self._losing = False
        log.info("messages reach other processes again; every tab is told where it stands")
        self.publish([self._channels.everybody], GAP, b"")

    # -- the connection ------------------------------------------------------------------------------------------

    async def keep_connected(self) -> None:
        backoff = Backoff()
        while True:
            try:
                link = await connect(self._url, f"callmeter-publish-{self._tag.decode()}")
                self._scripted = await _script_on(link)
            except (OSError, RedisError) as error:
                self._trouble = str(error) or type(error).__name__
                self.drop_old()
                await backoff.pause()
                continue
            link.on_replies = self._on_replies
            self.drop_old()
            self._link = link
            if self._losing:
                self._announce_loss()
            self.flush()
            await link.lost
            self._link = None
            self._trouble = f"it refused a publication: {self._refusal}" if self._refusal else "the connection was lost"
            self._take_back_what_was_in_flight()
            if self._refusal:
                await backoff.pause()
            else:
                backoff.reset()

    def _take_back_what_was_in_flight(self) -> None:
        self._commands_done = self._commands_sent
        self._tell_acknowledged()
        again = [queued for batch, _ in self._in_flight for queued in batch]
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._waiting[:0] = again
        self._waiting_bytes += sum(len(queued.payload) for queued in again)
        self._make_room()

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort()

    def end(self) -> None:
        """Leave, once `keep_connected` is cancelled."""
        self.abort()
        self._link = None


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
    except BaseException:
        link.abort()
        raise
    return name
