"""Who has a tab open, on any instance.

Each instance keeps one Redis set of the users it has tabs of, and a place in the sorted set of live instances that it
must renew: an instance that dies takes its users with it when its place lapses, and nobody has to clean up. A Redis
that lost everything is filled again by the next beat. A tab here is there whatever Redis says, which may be full, or
empty, or out of reach of this instance only. Redis's own clock is used throughout, so instances' clocks do not matter.
All keys share a hash tag, which keeps the scripts legal on a Redis Cluster.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import RedisError

BEAT_S = 1.5
LAPSE_MS = 5_000
"""An instance that has not beaten for this long counts as gone: three beats and a little."""

_INSTANCES = "{callmeter}:presence:instances"
_TABS = "{callmeter}:presence:tabs:"

_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('SCARD', KEYS[2])
"""

_ONLINE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local online = {}
for i = 1, #ARGV do online[i] = 0 end
for _, instance in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
    local here = redis.call('SMISMEMBER', KEYS[2] .. instance, unpack(ARGV))
    for i = 1, #ARGV do if here[i] == 1 then online[i] = 1 end end
end
return online
"""

_SOME = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local some = {}
for _, instance in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
    for _, user in ipairs(redis.call('SRANDMEMBER', KEYS[2] .. instance, ARGV[1])) do some[#some + 1] = user end
end
return some
"""

_USERS_A_QUERY = 1_000
"""Lua's `unpack` takes some thousands of values at most."""


class Presence:
    """This instance's tabs, and everybody's. Methods that ask Redis raise its errors: absence is never guessed."""

    def __init__(self, redis: Any, instance_id: str) -> None:
        self.instance_id = instance_id
        self._redis = redis
        self._tabs: Counter[str] = Counter()
        self._untold = False
        self._nobody_missing = asyncio.Event()
        """Not set while all users are being told again, when Redis may know none of them for a moment."""
        self._nobody_missing.set()
        self.trouble: str | None = None
        """Why the last beat did not reach Redis: it is away, or takes no writes. None when it did."""
        # A connection of its own: a beat that waits for its turn behind a burst of requests is an instance that lapses.
        self._beating = redis.client()
        self._beat = self._beating.register_script(_BEAT)
        self._online = redis.register_script(_ONLINE)
        self._some = redis.register_script(_SOME)

    @property
    def local_tabs(self) -> int:
        return self._tabs.total()

    @property
    def local_users(self) -> int:
        return len(self._tabs)

    def here(self, user_ids: Iterable[str]) -> set[str]:
        """Which of these users have a tab on this instance."""
        return {user for user in user_ids if user in self._tabs}

    async def arrive(self, user_id: str) -> None:
        """A tab of the user has connected here. Counted even when Redis is away: the next beat tells it."""
        self._tabs[user_id] += 1
        if self._tabs[user_id] == 1:
            await self._tell("sadd", user_id)

    async def leave(self, user_id: str) -> None:
        """A tab of the user has gone from here."""
        self._tabs[user_id] -= 1
        if self._tabs[user_id] > 0:
            return
        del self._tabs[user_id]
        await self._tell("srem", user_id)
        if user_id in self._tabs:  # came back while Redis was being told: the removal may have been carried out last
            await self._tell("sadd", user_id)

    async def _tell(self, command: str, user_id: str) -> None:
        # Told before all others are, this one would be forgotten with what was known before.
        await self._nobody_missing.wait()
        key = _TABS + self.instance_id
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                getattr(pipe, command)(key, user_id)
                pipe.pexpire(key, LAPSE_MS)
                await pipe.execute()
        except RedisError:
            self._untold = True
            raise

    async def beat(self) -> None:
        """Renew this instance's place; tell its users again where Redis no longer knows as many."""
        try:
            known = await self._beat(keys=[_INSTANCES, _TABS + self.instance_id], args=[self.instance_id, LAPSE_MS])
            if self._untold or known != len(self._tabs):
                await self._tell_all()
                self._untold = False
        except RedisError as error:
            self.trouble = str(error) or type(error).__name__
            raise
        self.trouble = None

    async def _tell_all(self) -> None:
        key = _TABS + self.instance_id
        self._nobody_missing.clear()
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                users = list(self._tabs)
                for start in range(0, len(users), _USERS_A_QUERY):
                    pipe.sadd(key, *users[start : start + _USERS_A_QUERY])
                pipe.pexpire(key, LAPSE_MS)
                await pipe.execute()
        finally:
            self._nobody_missing.set()

    async def withdraw(self) -> None:
        """This instance is stopping."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zrem(_INSTANCES, self.instance_id)
                pipe.delete(_TABS + self.instance_id)
                await pipe.execute()
        finally:
            await self._beating.aclose()

    async def online(self, user_ids: Sequence[str]) -> set[str]:
        """Which of these users have a tab on any live instance."""
        found: set[str] = set()
        for start in range(0, len(user_ids), _USERS_A_QUERY):
            page = list(user_ids[start : start + _USERS_A_QUERY])
            flags = await self._online(keys=[_INSTANCES, _TABS], args=page)
            found.update(user for user, flag in zip(page, flags, strict=True) if flag)
        return found | self.here(user_ids)

    async def some_online(self, at_most: int) -> list[str]:
        """Some of the users who are online, in order of their names."""
        users = await self._some(keys=[_INSTANCES, _TABS], args=[at_most])
        return sorted({user.decode() if isinstance(user, bytes) else user for user in users})[:at_most]
