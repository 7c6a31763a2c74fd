"""The disk the logs go to is full: lines are lost, calls are not. And no file has two processes that rotate it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.faults.crowd import gather_crowd
from tests.faults.readiness import Readiness
from tests.faults.world import CALLS, METER_WITHIN_S, SETTINGS, TOKENS, World
from tests.servers import Launch, Server, environment, eventually

FULL = Path("/dev/full")
"""Whatever is written there meets a full disk."""


async def test_with_no_byte_left_for_logs_calls_are_made_metered_and_ended(
    world: World, saw: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "callmeter-web.jsonl").symlink_to(FULL)
    env = environment(world.database_url, world.redis.url, SETTINGS | {"LOG_DIR": tmp_path})
    mute = Server(["-m", "realtime", "web"], env, FULL)
    try:
        async with Readiness([mute]).watching() as readiness:
            await eventually(readiness.all_ready)
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


def events_in(file: Path) -> list[str]:
    return [json.loads(line)["event"] for line in file.read_text().splitlines()]


def test_no_two_processes_rotate_one_file(launch: Launch, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    web = launch(LOG_DIR=logs)
    launch("worker", LOG_DIR=logs)
    launch(LOG_DIR=logs, WORKERS=2)
    assert {file.name for file in logs.glob("*.jsonl")} == {
        "callmeter-web.jsonl",
        "callmeter-worker.jsonl",
        "callmeter-web.2.jsonl",
        "callmeter-web-worker-1.jsonl",
        "callmeter-web-worker-2.jsonl",
    }
    assert events_in(logs / "callmeter-web.jsonl").count("serving") == 1
    assert events_in(logs / "callmeter-web.2.jsonl").count("serving") == 1, "the parent of the two has its own"
    assert "working" in events_in(logs / "callmeter-worker.jsonl")
    for number in (1, 2):
        assert "a worker serves" in events_in(logs / f"callmeter-web-worker-{number}.jsonl")
    web.kill()
    launch(LOG_DIR=logs)
    assert events_in(logs / "callmeter-web.jsonl").count("serving") == 2, (
        "a name is free again however its holder ended"
    )
