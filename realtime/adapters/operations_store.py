"""The operator's questions in PostgreSQL, and what each instance says of itself in Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ledger.sql import load

_SQL = load("realtime.sql", "operations.sql")

_INSTANCES = "{callmeter}:ops:instances"
SAID_FOR_S = 10
"""An instance that has said nothing for this long is left out."""

_SAY = """
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], time[1] .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)
"""

_HEAR = """
local time = redis.call('TIME')
local said = redis.call('HGETALL', KEYS[1])
local fresh = {}
for i = 1, #said, 2 do
    local at, text = string.match(said[i + 1], '^(%d+) (.*)$')
    if at and time[1] - at <= tonumber(ARGV[1]) then
        fresh[#fresh + 1] = text
    else
        redis.call('HDEL', KEYS[1], said[i])
    end
end
return fresh
"""


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """What one process says of itself."""

    id: str
    tabs: int
    users: int
    csp_reports_last_hour: int


@dataclass(frozen=True, slots=True)
class KindBalance:
    kind: str
    unit: str
    side: str
    balance: int


class InstanceBoard:
    """Where instances say how they are. Raises Redis's errors."""

    def __init__(self, redis: Any) -> None:
        self._say = redis.register_script(_SAY)
        self._hear = redis.register_script(_HEAR)
        self._redis = redis

    async def say(self, status: InstanceStatus) -> None:
        await self._say(keys=[_INSTANCES], args=[status.id, json.dumps(asdict(status))])

    async def hear(self) -> list[InstanceStatus]:
        """Every instance that is alive, by its id."""
        said = await self._hear(keys=[_INSTANCES], args=[SAID_FOR_S])
        return sorted((InstanceStatus(**json.loads(text)) for text in said), key=lambda status: status.id)

    async def withdraw(self, instance_id: str) -> None:
        await self._redis.hdel(_INSTANCES, instance_id)


async def live_calls(conn: Any) -> dict[str, int]:
    return dict(await conn.fetchrow(_SQL["live_calls"]))


async def due_lag_s(conn: Any) -> float:
    lag_s: float = await conn.fetchval(_SQL["due_lag_s"])
    return max(0.0, lag_s)


async def recent_debits(conn: Any, seconds: int) -> int:
    count: int = await conn.fetchval(_SQL["recent_debits"], seconds)
    return count


async def trial_balance(conn: Any) -> list[KindBalance]:
    return [KindBalance(**row) for row in await conn.fetch(_SQL["trial_balance"])]


async def pending_purchases(conn: Any) -> int:
    count: int = await conn.fetchval(_SQL["pending_purchases"])
    return count


async def jobs(conn: Any) -> Mapping[str, int]:
    """Jobs by status."""
    return {row["status"]: row["count"] for row in await conn.fetch(_SQL["jobs"])}
