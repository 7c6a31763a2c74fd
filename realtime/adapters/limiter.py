"""How often a user may do a thing: a sliding log in Redis, one round trip, atomic, by Redis's own clock.

A log of the last window's times is exact where a counter or GCRA is not: the eleventh operation in any sixty seconds is
refused, wherever the minute starts. A log holds at most `limit` entries, so it stays small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window = ARGV[2] * 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local used = redis.call('ZCARD', KEYS[1])
local allowed = 0
local counted_at = redis.call('ZSCORE', KEYS[1], ARGV[3])
if counted_at and now - counted_at < ARGV[4] * 1000000 then
    allowed = 1
elseif used < tonumber(ARGV[1]) then
    if counted_at then redis.call('ZADD', KEYS[1], counted_at, ARGV[3] .. ':' .. counted_at) end
    redis.call('ZADD', KEYS[1], now, ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[2] * 1000)
    used = used + 1
    allowed = 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {allowed, ARGV[1] - used, oldest + window - now}
"""


SAME_S = 2
"""What comes within this of one with the same name is the same thing, asked for by several tabs at once."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the limiter said of one operation."""

    allowed: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: int
    """Whole seconds until the oldest operation leaves the window and one more is allowed; at least 1."""
    policy: str


class Limiter:
    """Raises Redis's errors: what being without a limiter means is for the caller to say."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._take = redis.register_script(_TAKE)

    async def ping(self) -> None:
        """Raise Redis's error if it does not answer."""
        await self._redis.ping()

    async def take(
        self, policy: str, subject: str, limit: int, window_s: int = 60, *, operation: str | None = None
    ) -> Allowance:
        """Count one operation of `subject` under `policy`, if fewer than `limit` were counted in the window.

        One that has a name and was counted `SAME_S` ago or less is allowed again without being counted again.
        """
        key = f"{{callmeter}}:limit:{policy}:{subject}"
        allowed, remaining, reset_us = await self._take(
            keys=[key], args=[limit, window_s, operation or uuid4().hex, SAME_S]
        )
        return Allowance(
            allowed=bool(allowed),
            limit=limit,
            window_s=window_s,
            remaining=max(0, int(remaining)),
            reset_s=max(1, math.ceil(reset_us / 1_000_000)),
            policy=policy,
        )
