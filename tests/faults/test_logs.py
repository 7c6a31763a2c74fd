"""The disk the logs go to is full, or is not written to: lines are lost, calls are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.crowd import gather_crowd
from tests.faults.readiness import Readiness
from tests.faults.world import CALLS, METER_WITHIN_S, SETTINGS, TOKENS, World
from tests.servers import Server, environment, eventually

FULL = Path("/dev/full")
"""Whatever is written there meets a full disk."""


async def test_with_no_byte_left_for_logs_calls_are_made_metered_and_ended(
    world: World, saw: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "callmeter.jsonl").symlink_to(FULL)
    env = environment(world.database_url, world.redis.url, SETTINGS | {"LOG_DIR": tmp_path})
    mute = Server(["-m", "realtime", "web"], env, FULL)
    try:
        async with Readiness([mute]).watching() as readiness:
            await eventually(readiness.all_ready, 30)
            async with world.sql() as conn:
                crowd = await gather_crowd(conn, CALLS, [(mute, mute)], TOKENS)
            await crowd.talk()
            await world.periods(crowd, 2)
            books = await world.settle(crowd)
            assert await readiness.all_ready()
    finally:
        mute.kill()
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("logs' disk full", books, recovery_s=0.0)
