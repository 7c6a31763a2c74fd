"""The operator's overview by HTTP and by socket, and who is online."""

from __future__ import annotations

from typing import Any

import aiohttp
import asyncpg
import pytest
import redis.asyncio

from realtime.adapters import operations_store
from realtime.adapters.operations_store import InstanceBoard, InstanceStatus
from tests.metering import grant
from tests.servers import Launch, Opens, Server, eventually, token_of

ADMIN = {"Authorization": f"Bearer {token_of('root', role='admin')}"}


async def overview_of(http: aiohttp.ClientSession, server: Server) -> dict[str, Any]:
    answer = await http.get(f"{server.url}/api/v1/ops/overview", headers=ADMIN)
    assert answer.status == 200, await answer.text()
    found: dict[str, Any] = await answer.json()
    return found


async def online_to(http: aiohttp.ClientSession, server: Server, query: str = "") -> list[tuple[str, int, bool]]:
    headers = {"Authorization": f"Bearer {token_of('zoe')}"}
    answer = await http.get(f"{server.url}/api/v1/users/online{query}", headers=headers)
    found = await answer.json()
    assert found["queryKey"] == ["online"]
    return [(one["userId"], one["ratePerPeriod"], one["inCall"]) for one in found["users"]]


async def test_the_overview_is_of_all_instances(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, db: asyncpg.Connection
) -> None:
    one, two = launch(BILLING_PERIOD_SECONDS=1), launch(BILLING_PERIOD_SECONDS=1)
    await grant(db, "ann", 1000)
    ann, _ = await open_tab(one, "ann"), await open_tab(one, "ann")
    bob = await open_tab(two, "bob")
    rung = await ann.ask("call:start", {"calleeId": "bob", "requestId": "r"})
    await eventually(lambda: bob.told("call:incoming"))
    assert (await overview_of(http, one))["calls"] == {"ringing": 1, "active": 0}
    await bob.ask("call:accept", {"callId": rung["call"]["id"]})

    async def metered() -> dict[str, Any] | None:
        found = await overview_of(http, two)
        tabs = sorted((instance["tabs"], instance["users"]) for instance in found["instances"])
        metering = found["meter"]["debitsPerSecond"] > 0 and found["meter"]["dueLagSeconds"] < 1
        return found if tabs == [(1, 1), (2, 1)] and metering else None

    found = await eventually(metered)
    assert found["calls"] == {"ringing": 0, "active": 1}
    in_tokens = {row["kind"]: row["balance"] for row in found["trialBalance"] if row["unit"] == "TOKEN"}
    assert in_tokens["granted_tokens"] == 1000
    assert in_tokens["wallet"] + in_tokens["earnings"] + in_tokens["platform_revenue"] == 1000
    signed = [row["balance"] if row["side"] == "debit" else -row["balance"] for row in found["trialBalance"]]
    assert any(signed)
    assert sum(signed) == 0


async def test_csp_reports_of_all_instances_are_counted_in_it(launch: Launch, http: aiohttp.ClientSession) -> None:
    one, two = launch(), launch()
    for server in (one, two, two):
        await http.post(
            f"{server.url}/api/csp-report",
            data=b'{"csp-report": {}}',
            headers={"Content-Type": "application/csp-report"},
        )

    async def counted() -> bool:
        return bool((await overview_of(http, one))["cspReports"]["lastHour"] == 3)

    await eventually(counted)


async def test_only_an_admin_sees_it(server: Server, http: aiohttp.ClientSession, open_tab: Opens) -> None:
    ann = await open_tab(server, "ann")
    assert (await ann.ask("ops:watch"))["error"]["code"] == "forbidden"
    headers = {"Authorization": f"Bearer {token_of('ann')}"}
    assert (await http.get(f"{server.url}/api/v1/ops/overview", headers=headers)).status == 403
    assert (await http.get(f"{server.url}/api/v1/ops/overview")).status == 401
    root = await open_tab(server, "root", role="admin")
    await root.ask("ops:watch")
    await eventually(lambda: len(root.told("ops:update")) >= 2)
    assert not ann.told("ops:update")


async def test_it_is_pushed_to_those_who_watch_until_they_do_not(server: Server, open_tab: Opens) -> None:
    watching = await open_tab(server, "root", role="admin")
    not_watching = await open_tab(server, "root", role="admin")
    assert await watching.ask("ops:watch") == {"ok": True}
    first = (await eventually(lambda: watching.told("ops:update")))[0]
    assert set(first) == {"at", "instances", "calls", "meter", "trialBalance", "purchases", "jobs", "cspReports"}
    await eventually(lambda: len(watching.told("ops:update")) >= 2)
    assert watching.told("ops:update")[1]["at"] > first["at"]
    assert await watching.ask("ops:unwatch") == {"ok": True}
    heard = len(watching.told("ops:update"))
    await not_watching.ask("ops:watch")
    await eventually(lambda: len(not_watching.told("ops:update")) >= 2)
    assert len(watching.told("ops:update")) == heard


async def test_who_is_no_admin_any_more_by_their_new_token_is_not_told_on(server: Server, open_tab: Opens) -> None:
    watching, beside = [await open_tab(server, "root", role="admin") for _ in range(2)]
    for tab in (watching, beside):
        assert await tab.ask("ops:watch") == {"ok": True}
    await eventually(lambda: watching.told("ops:update"))
    assert (await watching.ask("auth:renew", {"token": token_of("root")}))["ok"]
    heard = len(watching.told("ops:update"))
    seen = len(beside.told("ops:update"))
    await eventually(lambda: len(beside.told("ops:update")) >= seen + 2)
    assert len(watching.told("ops:update")) == heard


async def test_who_is_online_is_told_with_the_price_and_whether_they_talk(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, db: asyncpg.Connection
) -> None:
    one, two = launch(), launch()
    assert await online_to(http, one) == []
    await grant(db, "ann", 100)
    ann, bob, cal = await open_tab(one, "ann"), await open_tab(two, "bob"), await open_tab(two, "cal")
    await http.put(
        f"{one.url}/api/v1/me/rate",
        json={"tokensPerPeriod": 7},
        headers={"Authorization": f"Bearer {token_of('bob')}"},
    )
    await eventually(lambda: all(tab.told("balance:update") for tab in (ann, bob, cal)))
    assert await online_to(http, one) == [("ann", 10, False), ("bob", 7, False), ("cal", 10, False)]
    assert await online_to(http, two, "?limit=2") == [("ann", 10, False), ("bob", 7, False)]
    await ann.ask("call:start", {"calleeId": "bob", "requestId": "r"})
    assert await online_to(http, one) == [("ann", 10, True), ("bob", 7, True), ("cal", 10, False)]
    await cal.close()

    async def gone() -> bool:
        return len(await online_to(http, one)) == 2

    await eventually(gone)


async def test_an_instance_that_says_nothing_any_more_is_left_out(redis_url: str, monkeypatch: Any) -> None:
    async with redis.asyncio.from_url(redis_url) as client:
        board = InstanceBoard(client)
        quiet, talking = InstanceStatus("quiet", 1, 1, 0), InstanceStatus("talking", 2, 1, 3)
        await board.say(talking)
        await board.say(quiet)
        assert await board.hear() == [quiet, talking]
        await board.withdraw("quiet")
        assert await board.hear() == [talking]
        await client.hset(operations_store._INSTANCES, "dead", b'1 {"id": "dead"}')
        await client.hset(operations_store._INSTANCES, "odd", b"nothing we wrote")
        assert await board.hear() == [talking]
        assert await client.hkeys(operations_store._INSTANCES) == [b"talking"]


@pytest.mark.parametrize("limit", ["0", "101", "x", "-1", ""])
async def test_a_limit_that_is_none_is_refused(server: Server, http: aiohttp.ClientSession, limit: str) -> None:
    headers = {"Authorization": f"Bearer {token_of('ann')}"}
    answer = await http.get(f"{server.url}/api/v1/users/online?limit={limit}", headers=headers)
    assert answer.status == 400
