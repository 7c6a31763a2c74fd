"""Agora's part in a call: its notifications, and putting out of the channel who is not paid for."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.acceptance.test_paid_call import answered_call, grant
from tests.integration.agora_fake import FakeAgora
from tests.servers import AGORA_APP_ID, Launch, Opens, Server, Tab, eventually

SECRET = "agora-secret-of-the-tests"
JOINED, LEFT = 107, 108
CALLER, CALLEE = 1, 2
_notices = itertools.count(1)


def notice(kind: int, channel: str, uid: int, seq: int, reason: int | None = None) -> bytes:
    payload = {"channelName": channel, "uid": uid, "clientSeq": seq, "ts": int(time.time())}
    payload |= {"reason": reason, "duration": 1} if reason is not None else {}
    envelope = {"noticeId": f"n{next(_notices)}", "productId": 1, "eventType": kind, "notifyMs": 1, "payload": payload}
    return json.dumps(envelope).encode()


async def send(server: Server, http: aiohttp.ClientSession, body: bytes, **headers: str) -> tuple[int, Any]:
    headers = headers or {"Agora-Signature-V2": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
    async with http.post(f"{server.url}/api/v1/webhooks/agora", data=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.fixture
async def call(launch: Launch, open_tab: Opens, http: aiohttp.ClientSession) -> tuple[Server, Tab, dict[str, Any]]:
    return await a_call(launch, open_tab, http, RECONNECT_GRACE_SECONDS=1)


async def a_call(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, **settings: Any
) -> tuple[Server, Tab, dict[str, Any]]:
    """A server, the caller's tab, and the call as it was answered."""
    server = launch(AGORA_WEBHOOK_SECRET=f"{SECRET}, an-older-one", **settings)
    await grant(http, server, "ann", 1000)
    ann, bob = await open_tab(server, "ann"), await open_tab(server, "bob")
    accepted = await answered_call(ann, bob)
    return server, ann, accepted["call"]


async def test_a_side_that_left_its_channel_for_good_ends_the_call_though_its_tab_is_there(
    call: tuple[Server, Tab, dict[str, Any]], http: aiohttp.ClientSession
) -> None:
    server, ann, about = call
    for kind, seq, reason, outcome in ((LEFT, 2, 1, "left"), (JOINED, 1, None, "ignored"), (LEFT, 2, 1, "ignored")):
        status, body = await send(server, http, notice(kind, about["channel"], CALLER, seq, reason))
        assert (status, body["outcome"]) == (200, outcome)
    [ended] = await eventually(lambda: ann.told("call:ended"))
    assert ended["call"]["endReason"] == "disconnected"


async def test_a_payer_who_never_comes_while_the_callee_waits_in_the_channel_ends_the_call(
    call: tuple[Server, Tab, dict[str, Any]], http: aiohttp.ClientSession
) -> None:
    server, ann, about = call
    status, body = await send(server, http, notice(JOINED, about["channel"], CALLEE, 1))
    assert (status, body["outcome"]) == (200, "joined")
    [ended] = await eventually(lambda: ann.told("call:ended"))
    assert ended["call"]["endReason"] == "disconnected"


async def test_a_side_that_came_back_or_is_about_to_ends_nothing(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, db: Any
) -> None:
    server, ann, about = await a_call(launch, open_tab, http, RECONNECT_GRACE_SECONDS=600)
    channel = about["channel"]
    await send(server, http, notice(LEFT, channel, CALLER, 2, 2))
    assert (await send(server, http, notice(JOINED, channel, CALLER, 3)))[1]["outcome"] == "joined"
    for reason in (4, 5, 9, 10, 999):
        body = notice(LEFT, channel, CALLEE, 10 + reason, reason)
        assert (await send(server, http, body))[1]["outcome"] == "left, perhaps"
    left_to_do = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'look_after_left'"
    assert await db.fetchval(left_to_do) == 1

    await db.execute("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE task_name LIKE 'look_after%'")

    async def done() -> bool:
        looked_after = "SELECT count(*) FROM procrastinate_jobs WHERE task_name LIKE 'look_after%'"
        return bool(await db.fetchval(looked_after) == 0)

    await eventually(done)
    assert await db.fetchval("SELECT status::text FROM calls") == "active"
    assert ann.told("call:ended") == []


async def test_what_is_not_signed_or_not_ours_changes_nothing(
    call: tuple[Server, Tab, dict[str, Any]], http: aiohttp.ClientSession
) -> None:
    server, _, about = call
    body = notice(LEFT, about["channel"], CALLER, 5, 1)
    for headers in ({"X": "none"}, {"Agora-Signature-V2": "00"}, {"Agora-Signature-V2": "é", "Agora-Signature": "00"}):
        status, answer = await send(server, http, body, **headers)
        assert (status, answer["code"]) == (400, "signature_invalid")
    for other in (
        notice(JOINED, "test_webhook", 12121212, 1),
        notice(LEFT, "call_" + "0" * 32, CALLER, 1, 1),
        notice(LEFT, about["channel"], 77, 1, 1),
        notice(101, about["channel"], 0, 1),
    ):
        assert (await send(server, http, other))[1]["outcome"] == "ignored"
    status, answer = await send(server, http, b'{"noticeId": 1}')
    assert (status, answer["code"]) == (400, "invalid_payload")


async def test_who_cannot_pay_on_is_put_out_of_the_channel(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession
) -> None:
    fake = FakeAgora(app_id=AGORA_APP_ID)
    async with fake.serving():
        server = launch(
            AGORA_CUSTOMER_ID=fake.customer_id,
            AGORA_CUSTOMER_SECRET=fake.customer_secret,
            AGORA_API_BASE=fake.base,
            BILLING_PERIOD_SECONDS=1,
            DEFAULT_RATE_TOKENS_PER_PERIOD=10,
        )
        await grant(http, server, "ann", 20)
        ann, bob = await open_tab(server, "ann"), await open_tab(server, "bob")
        accepted = await answered_call(ann, bob)
        await eventually(lambda: ann.told("call:ended"))
        await eventually(lambda: len(fake.put_out) == 2)
    assert {rule["uid"] for rule in fake.put_out} == {CALLER, CALLEE}
    assert {rule["cname"] for rule in fake.put_out} == {accepted["call"]["channel"]}
