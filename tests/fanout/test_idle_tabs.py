"""What a tab that does nothing costs: no task and no timer of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from realtime.fanout import FanoutServer
from tests.fanout.conftest import Raw, ServeFanout, soon

TABS = 50
FAR_OFF_EPOCH_S = 4_000_000_000


async def test_idle_tabs_add_no_task_and_wait_for_their_time_in_the_one_wheel(
    serve_fanout: ServeFanout, raw: Raw, redis_url: str
) -> None:
    def prepare(sio: FanoutServer) -> None:
        async def connect(sid: str, _environ: Any, auth: Any = None) -> None:
            await sio.enter_room(sid, auth["room"])
            sio.set_expiry(sid, FAR_OFF_EPOCH_S)

        sio.on("connect", connect)

    running = await serve_fanout(prepare, redis_url=redis_url, ping_interval_s=0.2, ping_timeout_s=10)
    engine = running.sio.eio
    before = asyncio.all_tasks()
    tabs = [await raw.joined(running, auth={"room": f"user:{number}"}) for number in range(TABS)]
    for tab in tabs:
        assert await tab.hear() == "2"
        await tab.say("3")
    await soon(lambda: asyncio.all_tasks() - before == set())
    assert len(engine.sockets) == TABS
    assert len(engine.wheel) == 2 * TABS, "each for its next ping and for the end of its authentication"


async def test_a_tab_that_has_gone_leaves_nothing_behind(serve_fanout: ServeFanout, raw: Raw, redis_url: str) -> None:
    def prepare(sio: FanoutServer) -> None:
        async def connect(sid: str, _environ: Any, auth: Any = None) -> None:
            await sio.enter_room(sid, "user:ann")
            await sio.save_session(sid, {"user": "ann"})
            sio.set_expiry(sid, FAR_OFF_EPOCH_S)

        sio.on("connect", connect)

    running = await serve_fanout(prepare, redis_url=redis_url)
    engine, manager = running.sio.eio, running.sio.manager
    tabs = [await raw.joined(running) for _ in range(TABS)]
    for tab in tabs:
        await tab.raw.close()
    await soon(lambda: not engine.sockets and not engine.connections.total)
    assert manager.spaces == {}
    assert engine.wheel._buckets == {}
    assert engine.slow == set()
