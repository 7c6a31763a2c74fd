"""Messages that are sent together cross Redis together; and those of python-socketio's own emitter arrive as well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio
import socketio

from realtime.adapters.postgres import open_pool
from realtime.adapters.transactions import Database
from realtime.fanout import FanoutServer
from realtime.services.metering import BATCH
from tests.fanout.conftest import Raw, Running, ServeFanout, Socket
from tests.metering import a_meter, active_calls, set_clock

START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
LAST = "no more"


@pytest.fixture
async def emitter(redis_url: str) -> AsyncIterator[FanoutServer]:
    """What a worker process emits with: it has no sockets."""
    sio = FanoutServer(redis_url=redis_url)
    await sio.start()
    yield sio
    await sio.stop()


@pytest.fixture
async def web(serve_fanout: ServeFanout, redis_url: str) -> Running:
    """A process that lets sockets into the rooms they name."""

    def prepare(sio: FanoutServer) -> None:
        async def connect(sid: str, _environ: Any, auth: Any = None) -> None:
            for room in auth or ():
                await sio.enter_room(sid, room)

        sio.on("connect", connect)

    return await serve_fanout(prepare, redis_url=redis_url)


class Commands:
    """What clients have Redis do; what Redis's own scripts do is no message between processes and Redis."""

    def __init__(self, url: str) -> None:
        self._client: redis.asyncio.Redis = redis.asyncio.from_url(url)

    async def __aenter__(self) -> Commands:
        self._monitor = self._client.monitor()
        await self._monitor.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._monitor.__aexit__(None, None, None)
        await self._client.aclose()

    async def carrying(self, text: str) -> list[str]:
        """Those so far that carry `text`."""
        await self._client.echo(LAST)
        found = []
        while LAST not in (seen := await asyncio.wait_for(self._monitor.next_command(), 30))["command"]:
            if text in seen["command"] and seen["client_type"] != "lua":
                found.append(seen["command"])
        return found


async def heard(socket: Socket, count: int) -> list[Any]:
    return [json.loads(str(await socket.hear_other_than_ping())[2:]) for _ in range(count)]


async def test_what_the_meter_tells_of_a_whole_batch_is_one_message_to_redis(
    database_url: str, redis_url: str, web: Running, emitter: FanoutServer, raw: Raw
) -> None:
    calls = 30
    pool = await open_pool(database_url, max_size=2)
    async with pool.acquire() as conn:
        await active_calls(conn, calls, started_at=START, tokens=1_000)
        await set_clock(conn, START)
    tabs = [
        await raw.joined(web, auth=[f"user:{side}-{number}"])
        for number in range(calls)
        for side in ("caller", "callee")
    ]
    async with Commands(redis_url) as commands:
        await a_meter(Database(pool), emitter).round()
        for tab in tabs:
            (first, data), (second, more) = await heard(tab, 2)
            assert first in {"balance:update", "earnings:update"}
            assert data["version"] >= 1
            assert (second, more) == ("query:invalidate", {"queryKeys": [["transactions"]]})
        assert len(await commands.carrying("earnings:update")) == 1
    await pool.close()


async def test_as_much_as_a_full_batch_of_the_meter_tells_is_one_message_to_redis(
    redis_url: str, web: Running, emitter: FanoutServer, raw: Raw
) -> None:
    tab = await raw.joined(web, auth=["user:7", "call:7"])
    told = ["balance:update", "query:invalidate", "balance:low", "earnings:update", "query:invalidate", "call:token"]
    async with Commands(redis_url) as commands:
        await emitter.emit_many(
            (f"{'call' if event == 'call:token' else 'user'}:{number}", event, {"number": number, "place": place})
            for number in range(BATCH)
            for place, event in enumerate([*told, "call:token"])
        )
        assert [(event, data["place"]) for event, data in await heard(tab, 7)] == list(
            zip([*told, "call:token"], range(7), strict=True)
        )
        assert len(await commands.carrying("balance:low")) == 1


async def test_messages_for_one_room_that_follow_each_other_are_sent_on_in_one_piece_and_counted_singly(
    web: Running, emitter: FanoutServer, raw: Raw
) -> None:
    tab, other = await raw.joined(web, auth=["a"]), await raw.joined(web, auth=["b"])
    before = web.sio.stats()
    await emitter.emit_many([("a", "one", 1), ("a", "two", b"2"), ("b", "three", 3), ("a", "four", 4)])
    assert await heard(tab, 1) == [["one", 1]]
    assert str(await tab.hear()).startswith('451-["two",')
    assert await tab.hear() == b"2"
    assert await heard(tab, 1) == [["four", 4]]
    assert await heard(other, 1) == [["three", 3]]
    after = web.sio.stats()
    assert after.messages_out - before.messages_out == 4
    assert after.redis_received - before.redis_received == 3


async def test_a_long_run_for_one_room_arrives_whole_and_in_order(
    web: Running, emitter: FanoutServer, raw: Raw
) -> None:
    tab = await raw.joined(web, auth=["a"])
    await emitter.emit_many([("a", "tick", number) for number in range(1_000)])
    assert await heard(tab, 1_000) == [["tick", number] for number in range(1_000)]


@pytest.mark.parametrize("data", [{"balance": 7}, "text", ["a", "list"], ("two", "arguments"), None], ids=str)
async def test_a_plain_emit_of_python_socketio_arrives(web: Running, raw: Raw, redis_url: str, data: Any) -> None:
    tab, other = await raw.joined(web, auth=["user:ann"]), await raw.joined(web, auth=["user:bob"])
    stock = socketio.AsyncRedisManager(redis_url, write_only=True)
    await stock.emit("news", data, room="user:ann")
    await stock.emit("news", "to all")
    arguments = list(data) if isinstance(data, tuple) else [] if data is None else [data]
    assert await heard(tab, 2) == [["news", *arguments], ["news", "to all"]]
    assert await heard(other, 1) == [["news", "to all"]]
    await stock.redis.aclose()


async def test_a_plain_emit_of_python_socketio_may_be_binary_and_leave_one_out(
    web: Running, raw: Raw, redis_url: str
) -> None:
    tab = await raw.joined(web, auth=["user:ann"])
    other = await raw.open(web)
    sid = await other.join(auth=["user:ann"])
    stock = socketio.AsyncRedisManager(redis_url, write_only=True)
    await stock.emit("picture", {"bytes": b"\x00\x01"}, room="user:ann", skip_sid=sid)
    await stock.emit("news", 1, room="user:ann")
    assert json.loads(str(await tab.hear())[4:]) == ["picture", {"bytes": {"_placeholder": True, "num": 0}}]
    assert await tab.hear() == b"\x00\x01"
    assert await heard(other, 1) == [["news", 1]]
    await stock.redis.aclose()
