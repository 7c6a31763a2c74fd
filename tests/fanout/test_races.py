"""Order and loss when everything happens at once: emits, joins, leaves, slow readers and connections that go.

Two servers share a real Redis. What a tab must have seen is worked out from what was done: of each process's messages
in a room, those emitted between the end of its joining and the beginning of its leaving; in order, none twice, none
missing. Only what was still on its way from the other process, or to a client that went, when the stay ended may be
missing, and then nothing after it may have come.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from realtime.fanout import FanoutServer, Limits, serve
from tests.fanout.conftest import PATIENCE_S, soon

PROCESSES, TABS, ROOMS = 2, 6, 3
AT_LAST = (-1, -1)
HEAVY = "x" * 30_000
LIMITS = Limits(send_queue_bytes=150_000, messages_burst=10_000)
SMALL_BUFFER_BYTES = 8_192
"""The kernel holds megabytes for a loopback connection: too much to wait for."""
_examples = itertools.count()

process = st.integers(0, PROCESSES - 1)
tab = st.integers(0, TABS - 1)
room = st.integers(0, ROOMS - 1)
operation = st.one_of(
    st.tuples(st.just("emit"), process, room, st.booleans()),
    st.tuples(st.just("emit_many"), process, st.lists(room, min_size=1, max_size=8)),
    st.tuples(st.just("join"), tab, room),
    st.tuples(st.just("join"), tab, room),
    st.tuples(st.just("leave"), tab, room),
    st.tuples(st.just("stall"), tab),
    st.tuples(st.just("resume"), tab),
    st.tuples(st.just("come back"), tab, process),
)
turns = st.lists(st.lists(operation, min_size=1, max_size=8), min_size=5, max_size=40)


@dataclass
class Stay:
    """A time in a room, by the number each process's next message in it had then."""

    room: int
    since: list[int]
    until: list[int] | None = None


@dataclass
class Tab:
    """A client; `seen` are the messages it got, in order."""

    home: int
    sid: str
    polls: bool
    close: Any
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[tuple[int, int, int]] = field(default_factory=list)
    """Process, room, number."""
    ends: set[tuple[int, int]] = field(default_factory=set)
    lost: bool = False
    """Its connection has ended, by itself or by the server."""
    left: bool = False
    """By itself."""
    stays: list[Stay] = field(default_factory=list)
    doing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def stay_in(self, room: int) -> Stay | None:
        return next((stay for stay in self.stays if stay.room == room and stay.until is None), None)

    def hear(self, packet: str) -> None:
        name, *about = json.loads(packet[2:]) if packet.startswith("42") else (None,)
        if name == "m":
            self.seen.append((about[0][0], about[0][1], about[0][2]))
        elif name == "end":
            self.ends.add((about[0][0], about[0][1]))


class World:
    def __init__(self, servers: list[FanoutServer], urls: list[str], http: aiohttp.ClientSession) -> None:
        self.servers, self.urls, self.http = servers, urls, http
        self.next: dict[int, list[int]] = {room: [0] * PROCESSES for room in range(ROOMS)}
        self.tabs: list[Tab] = []
        self.all_tabs: list[Tab] = []
        self._tasks: list[asyncio.Task[None]] = []

    # -- clients -------------------------------------------------------------------------------------------------

    async def new_tab(self, number: int, home: int) -> Tab:
        return await (self._polling(home) if number % 3 == 2 else self._websocket(home))

    async def _websocket(self, home: int) -> Tab:
        url = f"{self.urls[home]}/socket.io/?EIO=4&transport=websocket"
        ws = await self.http.ws_connect(url, autoclose=False)
        await ws.receive_str()
        await ws.send_str("40")
        sid = json.loads((await ws.receive_str())[2:])["sid"]
        made = Tab(home, sid, False, ws.close)

        async def read() -> None:
            while True:
                await made.reading.wait()
                message = await ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    made.lost = True
                    return
                made.hear(message.data)

        return self._begin(made, read())

    async def _polling(self, home: int) -> Tab:
        url = f"{self.urls[home]}/socket.io/?EIO=4&transport=polling"
        async with self.http.get(url) as answer:
            eio_sid = json.loads((await answer.text())[1:])["sid"]
        url += f"&sid={eio_sid}"
        async with self.http.post(url, data="40"):
            pass
        async with self.http.get(url) as answer:
            sid = json.loads((await answer.text())[2:])["sid"]

        async def close() -> None:
            async with self.http.post(url, data="1"):
                pass

        made = Tab(home, sid, True, close)

        async def read() -> None:
            while True:
                await made.reading.wait()
                async with self.http.get(url) as answer:
                    text = await answer.text()
                    if answer.status != 200:
                        made.lost = True
                        return
                for packet in text.split("\x1e"):
                    made.hear(packet)

        return self._begin(made, read())

    def _begin(self, made: Tab, reading: Any) -> Tab:
        made.reading.set()
        self._tasks.append(asyncio.create_task(reading))
        self.all_tabs.append(made)
        return made

    # -- operations ----------------------------------------------------------------------------------------------

    async def do(self, operation: tuple[Any, ...], after: int = 0) -> None:
        """The operation, so many turns of the event loop from now."""
        for _ in range(after):
            await asyncio.sleep(0)
        kind, subject, *about = operation
        if kind == "emit":
            room, heavy = about
            await self.servers[subject].emit("m", self._message(subject, room, HEAVY if heavy else ""), room=f"r{room}")
        elif kind == "emit_many":
            pushes = [(f"r{room}", "m", self._message(subject, room, "")) for room in about[0]]
            await self.servers[subject].emit_many(pushes)
        elif kind == "come back":
            await self._come_back(subject, about[0])
        elif kind in ("stall", "resume"):
            (self.tabs[subject].reading.clear if kind == "stall" else self.tabs[subject].reading.set)()
        else:
            one = self.tabs[subject]
            async with one.doing:
                await (self._join if kind == "join" else self._leave)(one, about[0])

    def _message(self, process: int, room: int, padding: str) -> list[Any]:
        number = self.next[room][process]
        self.next[room][process] += 1
        return [process, room, number, padding]

    async def _join(self, one: Tab, room: int) -> None:
        if one.stay_in(room) is None:
            await self.servers[one.home].enter_room(one.sid, f"r{room}")
            one.stays.append(Stay(room, list(self.next[room])))

    async def _leave(self, one: Tab, room: int) -> None:
        if (stay := one.stay_in(room)) is not None:
            stay.until = list(self.next[room])
            await self.servers[one.home].leave_room(one.sid, f"r{room}")

    async def _come_back(self, number: int, home: int) -> None:
        one = self.tabs[number]
        async with one.doing:
            if self.tabs[number] is not one:
                return
            one.left = True
            one.reading.set()
            with contextlib.suppress(aiohttp.ClientError):
                await one.close()
            self.tabs[number] = await self.new_tab(number, home)

    # -- the end -------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until everybody has read everything."""
        for one in self.all_tabs:
            one.reading.set()
        for number, room in itertools.product(range(PROCESSES), range(ROOMS)):
            await self.servers[number].emit("end", [number, room], room=f"r{room}")
        for one in self.tabs:
            await self.servers[one.home].emit("end", list(AT_LAST), to=one.sid)
        for one in self.all_tabs:
            rooms = [stay.room for stay in one.stays if stay.until is None]
            expected = {AT_LAST, *itertools.product(range(PROCESSES), rooms)}
            await soon(lambda one=one, expected=expected: one.lost or one.ends >= expected)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_backlogs(self) -> None:
        for sio in self.servers:
            for session in sio.eio.sockets.values():
                assert session.closed or session.backlog_bytes <= LIMITS.send_queue_bytes + 2 * len(HEAVY)

    def check(self) -> None:
        dropped = sum(sio.stats().drops["slow"] for sio in self.servers)
        assert sum(one.lost and not one.left for one in self.all_tabs) <= dropped, "ended for no reason that is counted"
        for one in self.all_tabs:
            assert max(Counter(one.seen).values(), default=0) <= 1, "twice"
            for source, room in itertools.product(range(PROCESSES), range(ROOMS)):
                numbers = [number for by, where, number in one.seen if (by, where) == (source, room)]
                assert numbers == sorted(numbers), "out of order"
                for stay in one.stays:
                    if stay.room == room:
                        self._check_stay(one, stay, source, set(numbers))

    def _check_stay(self, one: Tab, stay: Stay, source: int, seen: set[int]) -> None:
        until = (stay.until or self.next[stay.room])[source]
        due = range(stay.since[source], until)
        missing = [number for number in due if number not in seen]
        if missing and (one.lost or (stay.until is not None and source != one.home)):
            assert missing == list(range(missing[0], until)), "a hole, and something after it"
            assert not one.lost or source != one.home or max(seen, default=-1) < missing[0], "lost, and heard again"
        else:
            assert missing == []


@contextlib.asynccontextmanager
async def world(redis_url: str) -> AsyncIterator[World]:
    channel = f"race-{next(_examples)}"

    def small() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        made.bind(("127.0.0.1", 0))
        return made

    def small_client(address: Any) -> socket.socket:
        family, kind, number, _, _ = address
        made = socket.socket(family, kind, number)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        return made

    async with contextlib.AsyncExitStack() as stack:
        servers, urls = [], []
        for _ in range(PROCESSES):
            sio = FanoutServer(redis_url=redis_url, channel=channel, limits=LIMITS)

            async def connect(_sid: str, _environ: Any, _auth: Any = None) -> None:
                """Everybody may."""

            sio.on("connect", connect)
            await sio.start()
            stack.push_async_callback(sio.stop)
            server = await stack.enter_async_context(serve(web.Application(), sio, sock=small()))
            servers.append(sio)
            urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connector = aiohttp.TCPConnector(limit=0, socket_factory=small_client)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        made = World(servers, urls, http)
        stack.push_async_callback(made.close)
        made.tabs = [await made.new_tab(number, number % PROCESSES) for number in range(TABS)]
        yield made


async def race(redis_url: str, turns: list[list[tuple[Any, ...]]]) -> World:
    async with world(redis_url) as made:
        for turn in turns:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(made.do(operation, after=place) for place, operation in enumerate(turn)))
            made.check_backlogs()
        await made.settle()
        made.check()
        return made


EVERYBODY_IN = [("join", number, room) for number in range(TABS) for room in range(ROOMS)]
A_STORM = [("emit", by, where, heavy) for by in range(PROCESSES) for where in range(ROOMS) for heavy in (True, False)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(turns=turns)
@example(turns=[EVERYBODY_IN, *[A_STORM] * 10])
@example(turns=[EVERYBODY_IN, [("stall", 0), ("stall", 2)], *[A_STORM] * 10, [("resume", 0), ("resume", 2)], A_STORM])
@example(turns=[EVERYBODY_IN, *[[("stall", 0), *A_STORM, ("resume", 0), *[("emit", 0, 0, False)] * 60]] * 8])
@example(turns=[[*A_STORM, *EVERYBODY_IN, *A_STORM, *(("leave", one, 0) for one in range(TABS)), *A_STORM]] * 5)
@example(turns=[EVERYBODY_IN, *[[*A_STORM, ("come back", n % TABS, n % PROCESSES)] for n in range(12)]])
def test_each_tab_sees_its_rooms_messages_in_order_and_none_twice(
    redis_server_url: str, turns: list[list[tuple[Any, ...]]]
) -> None:
    asyncio.run(race(redis_server_url, turns))


async def test_a_slow_client_is_dropped_at_its_bound_and_slows_nobody(redis_server_url: str) -> None:
    """Everybody else gets every message while it does not read; it gets what it got in order, and nothing after."""
    async with world(redis_server_url) as made:
        await asyncio.gather(*(made.do(("join", number, 0)) for number in range(TABS)))
        slow = [made.tabs[0], made.tabs[2]]
        assert [one.polls for one in slow] == [False, True]
        for one in slow:
            one.reading.clear()
        fast = [one for one in made.tabs if one not in slow]
        for number in range(60):
            await made.do(("emit", 0, 0, True))
            made.check_backlogs()
            await soon(lambda number=number: all(len(one.seen) == number + 1 for one in fast))
        assert sum(sio.stats().drops["slow"] for sio in made.servers) == 2
        await made.settle()
        assert all(one.lost for one in slow)
        made.check()
