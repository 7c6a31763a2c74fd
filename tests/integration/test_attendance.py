"""Who is still there, on a real PostgreSQL: every live call is looked at, however many there are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest
import redis.asyncio

from realtime.adapters.postgres import open_pool
from realtime.adapters.presence import Presence
from realtime.adapters.transactions import Database
from realtime.services import attendance
from realtime.services.attendance import Attendance
from tests.metering import active_calls


async def test_a_side_that_has_gone_is_noticed_in_every_call_of_more_than_a_page(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "CALLS_A_PAGE", 2)
    pool = await open_pool(database_url, max_size=2)
    async with redis.asyncio.from_url(redis_url) as client, pool.acquire() as conn:
        ids = await active_calls(conn, 5, started_at=datetime.now(UTC), tokens=100)
        presence = Presence(client, "here")
        await presence.arrive("caller-4")
        await presence.beat()
        watch = Attendance(db=Database(pool), presence=presence, calls=cast(Any, None), reconnect_grace_s=3600)
        for _ in range(3):
            await watch.sweep()
        sides = "caller_absent_since IS NOT NULL AS caller, callee_absent_since IS NOT NULL AS callee"
        gone = {row["id"]: (row["caller"], row["callee"]) for row in await conn.fetch(f"SELECT id, {sides} FROM calls")}
        assert gone == dict.fromkeys(ids, (True, True)) | {ids[4]: (False, True)}
    await pool.close()
