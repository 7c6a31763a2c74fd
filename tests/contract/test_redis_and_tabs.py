"""Section 5 when Redis is away or mute: tabs are told where they stand as soon as pushes arrive again, and `/ready`
says what is wrong meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.contract.service import Browser
from tests.fanout.redis_cable import Cable, RealRedis
from tests.servers import Launch, Opens, Server, Tab, eventually


def snapshots(tab: Tab) -> int:
    return sum(update["reason"] == "snapshot" for update in tab.told("balance:update"))


async def becomes(browser: Browser, server: Server, status: int, about_redis: str = "") -> None:
    async def there() -> bool:
        answer = await browser.get(server, "/ready")
        problems: dict[str, Any] = answer.json.get("problems", {})
        return answer.status == status and about_redis in problems.get("redis", "")

    await eventually(there)


async def test_tabs_of_every_instance_get_a_snapshot_when_a_killed_redis_is_back(
    launch: Launch, open_tab: Opens, browser: Browser, tmp_path: Path
) -> None:
    redis = RealRedis(tmp_path)
    await redis.start()
    try:
        servers = [await asyncio.to_thread(launch, REDIS_URL=redis.url) for _ in range(2)]
        tabs = [await open_tab(server, "ann") for server in servers]
        await eventually(lambda: all(snapshots(tab) for tab in tabs))
        redis.kill()
        for server in servers:
            await becomes(browser, server, 503, "redis.sock")
        told = [snapshots(tab) for tab in tabs]
        await redis.start()
        for server in servers:
            await becomes(browser, server, 200)
        await eventually(lambda: all(snapshots(tab) > before for tab, before in zip(tabs, told, strict=True)))
        await browser.grant(servers[0], "ann", 70)
        for tab in tabs:
            await eventually(lambda tab=tab: tab.told("balance:update")[-1]["balance"] == 70)
    finally:
        redis.kill()


async def test_a_process_that_has_gone_deaf_says_so_and_sends_snapshots_when_it_hears_again(
    launch: Launch, open_tab: Opens, browser: Browser, redis_url: str
) -> None:
    """Redis answers, the subscription stands, and nothing comes: the probe that does not come back tells."""
    async with Cable(redis_url) as cable:
        server = await asyncio.to_thread(launch, REDIS_URL=cable.url)
        other = await asyncio.to_thread(launch)
        tab = await open_tab(server, "ann")
        await eventually(lambda: snapshots(tab) == 1)
        await becomes(browser, server, 200)
        cable.go_deaf(listening=True)
        await browser.grant(other, "ann", 50)
        await becomes(browser, server, 503, "its own probe has not come back")
        await becomes(browser, server, 200)
        await eventually(lambda: snapshots(tab) >= 2)
        assert {update["balance"] for update in tab.told("balance:update")[1:]} == {50}
        await browser.grant(other, "ann", 7)
        await eventually(lambda: tab.told("balance:update")[-1]["balance"] == 57)
        server.kill()  # before the cable goes, without which its drain would wait for Redis
