"""One paid call, end to end: real processes, official clients, a real ledger."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.metering import meter_clock
from tests.servers import AGORA_APP_ID, ROOT, Launch, Opens, Server, Tab, eventually, token_of

QUICK = {"BILLING_PERIOD_SECONDS": 1, "CALL_GRACE_SECONDS": 60, "DEFAULT_RATE_TOKENS_PER_PERIOD": 10}
BY_THE_CLOCK = {"BILLING_PERIOD_SECONDS": 60, "CALL_GRACE_SECONDS": 3600, "DEFAULT_RATE_TOKENS_PER_PERIOD": 10}
"""Periods that pass when the meter's clock is moved, however long everything else takes."""
Grant = Callable[[Server, str, int], Awaitable[None]]


async def grant(http: aiohttp.ClientSession, server: Server, user: str, tokens: int) -> None:
    answer = await http.post(
        f"{server.url}/api/v1/admin/grants",
        json={"userId": user, "tokens": tokens, "reason": "test"},
        headers={
            "Authorization": f"Bearer {token_of('root', role='admin')}",
            "Idempotency-Key": f"grant-{user}-{tokens}",
        },
    )
    assert answer.status == 200, await answer.text()


def verify_ledger(database_url: str) -> None:
    done = subprocess.run(  # noqa: PLW1510  (the code is asserted with what it said)
        [sys.executable, "-m", "ledger", "verify"],
        env={"DATABASE_URL": database_url, "PATH": "", "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def versions(tab: Tab) -> list[int]:
    return [update["version"] for update in tab.told("balance:update")]


async def answered_call(caller: Tab, callee: Tab) -> dict[str, Any]:
    """Ring, wait until it rings, answer; the call as the callee's tab got it."""
    started = await caller.ask("call:start", {"calleeId": callee.user, "requestId": "r-1"})
    assert started["ok"], started
    await eventually(lambda: callee.told("call:incoming"))
    accepted = await callee.ask("call:accept", {"callId": started["call"]["id"]})
    assert accepted["ok"], accepted
    return accepted


async def test_a_call_is_paid_period_by_period_on_every_tab_until_the_wallet_is_empty(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, database_url: str
) -> None:
    await a_whole_call(launch(**BY_THE_CLOCK), open_tab, http, database_url)


@pytest.mark.parametrize("transports", ["websocket", "polling", "polling,websocket"])
async def test_the_same_with_the_official_javascript_client(
    launch: Launch, open_javascript_tab: Opens, http: aiohttp.ClientSession, database_url: str, transports: str
) -> None:
    opens = functools.partial(open_javascript_tab, transports=transports)
    await a_whole_call(launch(**BY_THE_CLOCK), opens, http, database_url)


async def a_whole_call(server: Server, open_tab: Opens, http: aiohttp.ClientSession, database_url: str) -> None:
    await grant(http, server, "ann", 50)
    ann, ann_too = await open_tab(server, "ann"), await open_tab(server, "ann")
    bob, bob_too = await open_tab(server, "bob"), await open_tab(server, "bob")

    accepted = await answered_call(ann, bob)
    call_id = accepted["call"]["id"]
    assert accepted["agora"]["appId"] == AGORA_APP_ID
    assert accepted["agora"]["token"].startswith("007")
    for tab in (ann, ann_too, bob, bob_too):
        [told] = await eventually(lambda tab=tab: tab.told("call:accepted"))
        assert told["answeredBy"] == bob.sid
    late = await bob_too.ask("call:accept", {"callId": call_id})
    assert late["error"]["code"] == "call_already_answered"
    joined = await ann.ask("call:join", {"callId": call_id})
    assert joined["agora"]["uid"] != accepted["agora"]["uid"]
    assert joined["agora"]["channel"] == accepted["agora"]["channel"] == accepted["call"]["channel"]

    async with meter_clock(database_url) as move:
        for period in (1, 2, 3, 4, 5):
            await move(60 * period)
            heard = 1 + min(period + 1, 5)  # the snapshot and the periods paid by now
            await eventually(lambda heard=heard: len(ann.told("balance:update")) == heard)
        for tab in (ann, ann_too, bob, bob_too):
            await eventually(lambda tab=tab: tab.told("call:ended"))
    [ended] = ann.told("call:ended")
    call = ended["call"]
    assert (call["endReason"], call["periodsBilled"], call["tokensSpent"]) == ("insufficient_funds", 5, 50)
    started_at, ended_at = (datetime.fromisoformat(call[name]) for name in ("startedAt", "endedAt"))
    assert (ended_at - started_at).total_seconds() == 5 * 60

    for tab in (ann, ann_too):
        assert versions(tab) == [1, 2, 3, 4, 5, 6], "the snapshot, then one update for each debit, none missing"
        assert [update["balance"] for update in tab.told("balance:update")] == [50, 40, 30, 20, 10, 0]
        assert [low["periodsLeft"] for low in tab.told("balance:low")] == [1, 0]
    for tab in (bob, bob_too):
        assert [update["balance"] for update in tab.told("earnings:update")] == [8, 16, 24, 32, 40]
    assert len(ann.told("call:token")) == len(bob.told("call:token")) == 4
    assert not ann_too.told("call:token"), "only the tabs in the call get its tokens"

    db = await asyncpg.connect(database_url)
    keys = await db.fetch("SELECT idempotency_key FROM journals WHERE type = 'call_debit' ORDER BY id")
    assert [row[0] for row in keys] == [f"call:{call_id}:{period}" for period in range(1, 6)]
    revenue = await db.fetchval("SELECT balance FROM accounts WHERE kind = 'platform_revenue'")
    assert revenue == 10
    await db.close()
    verify_ledger(database_url)
    assert server.stop() == 0


async def test_two_instances_are_one_service_and_one_may_be_killed_in_mid_call(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, database_url: str
) -> None:
    settings = QUICK | {"RECONNECT_GRACE_SECONDS": 20}
    one, two = launch(**settings), launch(**settings)
    await grant(http, one, "ann", 1000)
    ann, ann_on_two = await open_tab(one, "ann"), await open_tab(two, "ann")
    bob = await open_tab(two, "bob")
    accepted = await answered_call(ann, bob)
    await eventually(lambda: len(ann_on_two.told("balance:update")) >= 3)
    assert ann_on_two.told("call:accepted")

    one.kill()
    billed_before = len(ann_on_two.told("balance:update"))
    back = await open_tab(two, "ann")
    await eventually(lambda: back.told("call:accepted"))
    assert back.told("balance:update")[0]["reason"] == "snapshot"
    rejoined = await back.ask("call:join", {"callId": accepted["call"]["id"]})
    assert rejoined["call"]["status"] == "active"
    await eventually(lambda: len(ann_on_two.told("balance:update")) >= billed_before + 3)
    ended = await back.ask("call:end", {"callId": accepted["call"]["id"]})
    assert ended["call"]["endReason"] == "hangup"
    seen = sorted(versions(ann_on_two))  # two processes may publish what they committed in another order
    assert seen == list(range(seen[0], seen[0] + len(seen))), "consecutive, through the death of the other instance"
    verify_ledger(database_url)


async def test_a_side_whose_instance_died_and_that_does_not_come_back_ends_the_call(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession
) -> None:
    settings = QUICK | {"RECONNECT_GRACE_SECONDS": 1}
    one, two = launch(**settings), launch(**settings)
    await grant(http, one, "ann", 1000)
    ann, bob = await open_tab(one, "ann"), await open_tab(two, "bob")
    await answered_call(ann, bob)
    one.kill()
    [ended] = await eventually(lambda: bob.told("call:ended"))
    assert ended["call"]["endReason"] == "disconnected"
