"""Presence on a real Redis: who is there, whatever Redis has lost, refuses or is being told at the moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import RedisError

from realtime.adapters.presence import Presence
from tests.servers import eventually


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    client = redis.asyncio.from_url(redis_url)
    yield client
    await client.aclose()


class HeldBack:
    """A client whose first transaction is sent only when it is let go."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    def client(self) -> Any:
        return self._client.client()

    def register_script(self, script: str) -> Any:
        return self._client.register_script(script)

    def pipeline(self, **options: Any) -> Any:
        pipe = self._client.pipeline(**options)
        if not self.asked.is_set():
            execute = pipe.execute

            async def held() -> Any:
                self.asked.set()
                await self.let_go.wait()
                return await execute()

            pipe.execute = held
        return pipe


async def test_who_comes_and_goes_while_everybody_is_told_again_is_told_once_that_is_done(client: Any) -> None:
    """Told before, a newcomer would be forgotten with what was known before, and not be there for a moment."""
    before = Presence(client, "here")
    await before.arrive("stays")
    await before.arrive("goes")
    held = HeldBack(client)
    presence = Presence(held, "here")
    presence._tabs.update(["stays", "goes"])
    await client.flushall()
    beating = asyncio.create_task(presence.beat())
    await held.asked.wait()
    moving = [asyncio.create_task(presence.arrive("comes")), asyncio.create_task(presence.leave("goes"))]
    for _ in range(20):
        await client.ping()
    assert not any(move.done() for move in moving)
    held.let_go.set()
    await asyncio.gather(beating, *moving)
    elsewhere = Presence(client, "elsewhere")
    assert await elsewhere.online(["stays", "goes", "comes"]) == {"stays", "comes"}


async def test_a_tab_here_is_there_though_redis_has_forgotten_it(client: Any) -> None:
    presence = Presence(client, "here")
    await presence.arrive("ann")
    await client.flushall()
    assert await presence.online(["ann", "bob"]) == {"ann"}
    assert presence.here(["ann", "bob"]) == {"ann"}


async def test_a_beat_that_is_refused_is_trouble_until_one_is_not(client: Any) -> None:
    presence = Presence(client, "here")
    await presence.beat()
    assert presence.trouble is None
    await client.set("{callmeter}:presence:tabs:here", "of another type")
    with pytest.raises(RedisError):
        await presence.beat()
    assert presence.trouble is not None
    await client.flushall()
    await presence.beat()
    assert presence.trouble is None


async def test_a_beat_does_not_wait_for_its_turn_behind_a_burst_of_requests(redis_url: str, client: Any) -> None:
    pool = redis.asyncio.BlockingConnectionPool.from_url(redis_url, max_connections=2, timeout=None)
    async with redis.asyncio.Redis.from_pool(pool) as crowded:
        presence = Presence(crowded, "here")
        await presence.beat()
        burst = [asyncio.create_task(crowded.blpop("nothing")) for _ in range(3)]
        await eventually(lambda: _blocked(client))
        await asyncio.wait_for(presence.beat(), 10)
        assert not any(request.done() for request in burst)
        await client.rpush("nothing", *"abc")
        await asyncio.gather(*burst)
        await presence.withdraw()


async def _blocked(client: Any) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])
