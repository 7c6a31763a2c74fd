"""Section 6: what a call costs, when it is paid, and when it ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import struct
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.agora_tokens import describe
from tests.contract.service import Browser, Pair, Pairs, Serve, Service, sql, told_of, verified
from tests.metering import meter_clock
from tests.servers import AGORA_APP_CERTIFICATE, AGORA_APP_ID, PATIENCE_S, Opens, Tab, eventually

PERIOD_S, GRACE_S = 1, 60


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve(
        instances=2,
        BILLING_PERIOD_SECONDS=PERIOD_S,
        CALL_GRACE_SECONDS=GRACE_S,
        RECONNECT_GRACE_SECONDS=4,
        RATE_LIMIT_TRUST_LEVELS='{"basic":100,"verified":100,"trusted":100,"vip":100}',
    ) as service:
        yield service
        verified(service)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def ended(tab: Tab, call_id: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    [call] = await eventually(lambda: told_of(tab, "call:ended", call_id), timeout_s)
    return call


async def keys_of(service: Service, call_id: str) -> list[str]:
    async with sql(service) as db:
        rows = await db.fetch(
            "SELECT idempotency_key FROM journals WHERE type = 'call_debit' AND idempotency_key LIKE $1",
            f"call:{call_id}:%",
        )
    return sorted((row[0] for row in rows), key=lambda key: int(key.rsplit(":", 1)[1]))


# Tokens


class Token007:
    """An AccessToken2 taken apart by its published layout."""

    def __init__(self, token: str) -> None:
        assert token.startswith("007")
        self._rest = zlib.decompress(base64.b64decode(token[3:]))
        signature = self._text()
        body = self._rest
        self.app_id = self._text().decode()
        self.issued_at, self.lifetime_s, salt, services = self._unpack("<IIIH")
        assert services == 1
        kind, privileges = self._unpack("<HH")
        assert kind == 1, "the service is RTC"
        self.privileges = dict(self._unpack("<HI") for _ in range(privileges))
        self.channel, self.uid = self._text().decode(), self._text().decode()
        assert self._rest == b""
        by_time = hmac.digest(struct.pack("<I", self.issued_at), AGORA_APP_CERTIFICATE.encode(), hashlib.sha256)
        key = hmac.digest(struct.pack("<I", salt), by_time, hashlib.sha256)
        assert hmac.compare_digest(signature, hmac.digest(key, body, hashlib.sha256))

    def _unpack(self, layout: str) -> Any:
        size = struct.calcsize(layout)
        head, self._rest = self._rest[:size], self._rest[size:]
        return struct.unpack(layout, head)

    def _text(self) -> bytes:
        (length,) = self._unpack("<H")
        head, self._rest = self._rest[:length], self._rest[length:]
        return head


def expires_a_grace_after(paid_through: str, agora: dict[str, Any]) -> None:
    end = (at(paid_through) + timedelta(seconds=GRACE_S)).timestamp()
    token = Token007(agora["token"])
    assert (token.app_id, token.channel, token.uid) == (AGORA_APP_ID, agora["channel"], str(agora["uid"]))
    assert 1 in token.privileges, "to join"
    for lifetime_s in (token.lifetime_s, *token.privileges.values()):
        assert abs(token.issued_at + lifetime_s - end) <= 1, "whole seconds are all the format has"
    assert abs(at(agora["expiresAt"]).timestamp() - end) <= 1


async def test_the_video_token_of_each_side_expires_a_grace_after_what_is_paid_in_each_period(
    service: Service, pair: Pairs, browser: Browser
) -> None:
    two = await pair(service, on=service.servers[1])
    accepted = await two.talk()
    call_id = accepted["call"]["id"]
    expires_a_grace_after(accepted["call"]["paidThrough"], accepted["agora"])
    joined = await two.caller.ask("call:join", {"callId": call_id})
    expires_a_grace_after(joined["call"]["paidThrough"], joined["agora"])
    for tab in (two.caller, two.callee):
        await eventually(lambda tab=tab: len(tab.told("call:token")) >= 4)
        first_paid = at(accepted["call"]["paidThrough"])
        # Either instance bills a period, and two of them are in no order to one another.
        pushes = sorted(tab.told("call:token"), key=lambda push: str(push["agora"]["expiresAt"]))
        assert all(push["callId"] == call_id for push in pushes)
        for number, push in enumerate(pushes[:3], 1 + (tab is two.caller and joined["call"]["periodsBilled"] - 1)):
            paid = first_paid + timedelta(seconds=number * PERIOD_S)
            expires_a_grace_after(paid.isoformat(), push["agora"])

    async def paid_through() -> datetime:
        answer = await browser.get(service, f"/api/v1/calls/{call_id}", user=two.callee.user)
        return at(answer.json["call"]["paidThrough"])

    before = await paid_through()
    renewed = await two.callee.ask("call:renew", {"callId": call_id})
    grace = timedelta(seconds=GRACE_S)
    assert before + grace <= at(renewed["agora"]["expiresAt"]) <= await paid_through() + grace
    await two.caller.ask("call:end", {"callId": call_id})


async def test_only_the_tabs_in_the_call_get_its_tokens(service: Service, pair: Pairs, open_tab: Opens) -> None:
    two = await pair(service)
    onlooker = await open_tab(service.servers[1], two.caller.user)
    call_id = (await two.talk())["call"]["id"]
    await two.caller.ask("call:join", {"callId": call_id})
    await eventually(lambda: len(two.caller.told("call:token")) >= 2 and len(two.callee.told("call:token")) >= 2)
    assert not onlooker.told("call:token")
    await onlooker.ask("call:join", {"callId": call_id})
    await eventually(lambda: onlooker.told("call:token"))
    await two.caller.ask("call:end", {"callId": call_id})
    caller_uid = {push["agora"]["uid"] for push in two.caller.told("call:token") + onlooker.told("call:token")}
    callee_uid = {push["agora"]["uid"] for push in two.callee.told("call:token")}
    assert (len(caller_uid), len(callee_uid), caller_uid & callee_uid) == (1, 1, set())


# Paying


async def test_each_period_is_debited_once_by_its_key_while_two_instances_meter(service: Service, pair: Pairs) -> None:
    pairs = await asyncio.gather(*(pair(service, on=service.servers[1]) for _ in range(5)))
    calls = [(await two.talk())["call"]["id"] for two in pairs]
    for two, call_id in zip(pairs, calls, strict=True):
        await eventually(lambda two=two: len(two.caller.told("balance:update")) >= 5)
        call = (await two.caller.ask("call:end", {"callId": call_id}))["call"]
        billed = call["periodsBilled"]
        assert await keys_of(service, call_id) == [f"call:{call_id}:{period}" for period in range(1, billed + 1)]
        assert call["tokensSpent"] == 10 * billed
        assert at(call["paidThrough"]) - at(call["startedAt"]) == timedelta(seconds=billed * PERIOD_S)
        assert at(call["endedAt"]) <= at(call["paidThrough"]), "no period was begun after the end"
        await eventually(lambda two=two, billed=billed: len(two.caller.told("balance:update")) == billed + 1)
        # Two processes may publish what they committed in another order.
        versions = sorted(update["version"] for update in two.caller.told("balance:update"))
        assert versions == list(range(1, billed + 2))


async def test_a_call_that_cannot_pay_its_next_period_ends_at_the_end_of_the_paid_one(
    service: Service, pair: Pairs, browser: Browser
) -> None:
    two = await pair(service, tokens=25)
    call_id = (await two.talk())["call"]["id"]
    call = await ended(two.callee, call_id)
    assert (call["endReason"], call["periodsBilled"], call["tokensSpent"]) == ("insufficient_funds", 2, 20)
    assert call["endedAt"] == call["paidThrough"]
    assert await browser.balance(service, two.caller.user) == 5
    assert (await ended(two.caller, call_id)) == call
    # Low when under two periods are left: after the first debit 15 are left, 5 after the second.
    lows = await eventually(lambda: (said := two.caller.told("balance:low")) and len(said) == 2 and said)
    assert sorted(lows, key=lambda low: -low["balance"]) == [
        {"balance": 15, "periodsLeft": 1, "callId": call_id}, {"balance": 5, "periodsLeft": 0, "callId": call_id},
    ]  # fmt: skip
    assert not two.callee.told("balance:low")
    for event in ("renew", "join"):
        assert (await two.callee.ask(f"call:{event}", {"callId": call_id}))["error"]["code"] == "call_ended"


@pytest.fixture(scope="module")
def patient(serve: Serve) -> Iterator[Service]:
    """One whose periods pass when the meter's clock is moved, however long everything else takes."""
    with serve(CALL_GRACE_SECONDS=3600) as service:
        yield service
        verified(service)


async def test_topping_up_in_the_last_period_keeps_the_call_going(
    patient: Service, pair: Pairs, browser: Browser
) -> None:
    two = await pair(patient, tokens=10)
    call_id = (await two.talk())["call"]["id"]
    await eventually(lambda: two.caller.told("balance:low"))
    await browser.grant(patient, two.caller.user, 20)
    async with meter_clock(patient.database_url) as move:
        for ahead_s in (60, 120, 180):
            await move(ahead_s)
            if ahead_s < 180:
                heard = 2 + 1 + ahead_s // 60  # the snapshot and the grant; the first period, and those since
                await eventually(lambda heard=heard: len(two.caller.told("balance:update")) == heard)
        call = await ended(two.caller, call_id)
    assert (call["endReason"], call["periodsBilled"]) == ("insufficient_funds", 3)
    assert await browser.balance(patient, two.caller.user) == 0


async def test_a_debit_is_split_between_callee_and_platform_without_losing_a_token(
    service: Service, pair: Pairs, browser: Browser
) -> None:
    for rate in (1, 2, 3, 7, 33, 101):
        two = await pair(service, tokens=rate)
        await browser.put(service, "/api/v1/me/rate", user=two.callee.user, json={"tokensPerPeriod": rate})
        call_id = (await two.talk())["call"]["id"]
        await two.caller.ask("call:end", {"callId": call_id})
        async with sql(service) as db:
            legs = await db.fetch(
                """SELECT a.type::text, a.owner_id, e.amount FROM entries e
                JOIN journals j ON j.id = e.journal_id JOIN accounts a ON a.id = e.account_id
                WHERE j.idempotency_key = $1""",
                f"call:{call_id}:1",
            )
        amounts = {(leg["type"], leg["owner_id"]): leg["amount"] for leg in legs}
        assert sum(amounts.values()) == 0
        assert amounts["liability", two.caller.user] == rate
        fee = -sum(leg["amount"] for leg in legs if leg["type"] == "revenue")
        assert abs(Decimal(fee) - Decimal(rate) * 20 / 100) < 1
        assert -amounts.get(("liability", two.callee.user), 0) == rate - fee


# Ringing and leaving


async def test_a_call_nobody_answers_is_missed_and_costs_nothing(
    patient: Service, pair: Pairs, browser: Browser
) -> None:
    service = patient
    two = await pair(service)
    async with meter_clock(service.database_url) as move:
        await move(1_000)
        call_id = (await two.ring())["id"]
        await move(1_045)
    for tab in (two.caller, two.callee):
        call = await ended(tab, call_id)
        assert (call["status"], call["endReason"], call["periodsBilled"]) == ("ended", "missed", 0)
    assert (await two.callee.ask("call:accept", {"callId": call_id}))["error"]["code"] == "call_ended"
    assert await browser.balance(service, two.caller.user) == 1000
    call_id = (await two.ring("r-2"))["id"]
    assert call_id, "both are free for another call"
    await two.caller.ask("call:cancel", {"callId": call_id})


@pytest.mark.parametrize("leaves", ["caller", "callee"])
async def test_a_call_ends_when_one_side_has_no_tab_for_the_grace_and_is_not_paid_for_longer(
    service: Service, pair: Pairs, browser: Browser, leaves: str
) -> None:
    two = await pair(service, on=service.servers[1])
    call_id = (await two.talk())["call"]["id"]
    leaver, stays = (two.caller, two.callee) if leaves == "caller" else (two.callee, two.caller)
    await leaver.close()
    call = await ended(stays, call_id)
    assert call["endReason"] == "disconnected"
    billed = call["periodsBilled"]
    assert await browser.balance(service, two.caller.user) == 1000 - 10 * billed
    assert at(call["endedAt"]) <= at(call["paidThrough"])
    assert len(await keys_of(service, call_id)) == billed


async def test_a_side_that_comes_back_within_the_grace_goes_on(service: Service, pair: Pairs, open_tab: Opens) -> None:
    two = await pair(service)
    call_id = (await two.talk())["call"]["id"]
    for server in (service.servers[1], service.servers[0], service.servers[1]):
        for side in ("caller", "callee"):
            tab = getattr(two, side)
            await tab.close()
            back = await open_tab(server, tab.user)
            await eventually(lambda back=back: told_of(back, "call:accepted", call_id))
            joined = await back.ask("call:join", {"callId": call_id})
            assert joined["ok"], joined
            setattr(two, side, back)
    # Longer than the grace since the first of them left:
    await eventually(lambda: len(two.caller.told("balance:update")) >= 6)
    assert not two.caller.told("call:ended")
    assert (await two.caller.ask("call:end", {"callId": call_id}))["call"]["endReason"] == "hangup"


async def test_a_side_with_another_tab_open_is_not_away(service: Service, pair: Pairs, open_tab: Opens) -> None:
    two = await pair(service)
    elsewhere = await open_tab(service.servers[1], two.caller.user)
    call_id = (await two.talk())["call"]["id"]
    await two.caller.close()
    await eventually(lambda: len(elsewhere.told("balance:update")) >= 6)
    assert not elsewhere.told("call:ended")
    await elsewhere.ask("call:end", {"callId": call_id})


async def test_a_call_ended_by_http_is_metered_no_longer(service: Service, pair: Pairs, browser: Browser) -> None:
    two = await pair(service)
    call_id = (await two.talk())["call"]["id"]
    await eventually(lambda: len(two.caller.told("balance:update")) >= 3)
    answer = await browser.post(service.servers[1], f"/api/v1/calls/{call_id}/end", user=two.callee.user)
    call = answer.json["call"]
    assert await ended(two.caller, call_id) == call
    # Another call of the same two is paid for two more periods; the first is not.
    again = Pair(two.caller, two.callee)
    other_id = (await again.answer((await again.ring("r-2"))["id"]))["call"]["id"]
    before = len(two.caller.told("balance:update"))
    await eventually(lambda: len(two.caller.told("balance:update")) >= before + 2)
    await two.caller.ask("call:end", {"callId": other_id})
    assert len(await keys_of(service, call_id)) == call["periodsBilled"]


async def test_the_version_of_the_tokens_and_the_platforms_share_are_by_the_settings(
    serve: Serve, pair: Pairs, browser: Browser
) -> None:
    with serve(AGORA_TOKEN_VERSION="006", PLATFORM_FEE_PERCENT=35) as service:
        two = await pair(service)
        accepted = await two.talk()
        token = describe(accepted["agora"]["token"])
        assert (token.version, token.app_id) == ("006", AGORA_APP_ID)
        paid_and_grace = at(accepted["call"]["paidThrough"]) + timedelta(seconds=10)
        assert all(abs(until - paid_and_grace.timestamp()) <= 1 for until in token.privileges.values())
        assert token.privileges
        earned = await browser.get(service, "/api/v1/earnings", user=two.callee.user)
        assert earned.json["balance"] == 7, "35 percent of 10 are 3 whole tokens"
