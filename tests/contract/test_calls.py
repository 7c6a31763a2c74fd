"""Section 5: the events of a call, in every state and by everyone, and each error code."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis

from tests.contract.service import Browser, Pair, Pairs, Serve, Service, someone
from tests.servers import AGORA_APP_ID, Opens, Tab, eventually, token_of

CALL_FIELDS = {
    "id", "channel", "callerId", "calleeId", "status", "rateTokensPerPeriod", "periodSeconds", "startedAt",
    "paidThrough", "endedAt", "endReason", "periodsBilled", "tokensSpent",
}  # fmt: skip
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
GRACE_S = 10
PERIOD_S = 60
LASTS_S = 5
"""How long a token holds that is to run out: enough to connect with it and ask something."""


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve() as service:
        yield service


def code(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False, answer
    assert set(answer["error"]) >= {"code", "message"}
    found: str = answer["error"]["code"]
    return found


async def start(tab: Tab, callee: str, request_id: str | None = None) -> dict[str, Any]:
    return await tab.ask("call:start", {"calleeId": callee, "requestId": request_id or someone("r")})


def at(text: str) -> datetime:
    assert UTC_TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


# The shapes


async def test_a_call_has_its_fields_in_each_state(service: Service, pair: Pairs) -> None:
    two = await pair(service)
    ringing = await two.ring()
    assert set(ringing) == CALL_FIELDS
    assert ringing == ringing | {
        "callerId": two.caller.user, "calleeId": two.callee.user, "status": "ringing", "rateTokensPerPeriod": 10,
        "periodSeconds": PERIOD_S, "startedAt": None, "paidThrough": None, "endedAt": None, "endReason": None,
        "periodsBilled": 0, "tokensSpent": 0,
    }  # fmt: skip
    accepted = await two.answer(ringing["id"])
    active = accepted["call"]
    assert set(active) == CALL_FIELDS
    assert (active["status"], active["periodsBilled"], active["tokensSpent"]) == ("active", 1, 10)
    assert at(active["paidThrough"]) - at(active["startedAt"]) == timedelta(seconds=PERIOD_S)
    assert (active["endedAt"], active["endReason"]) == (None, None)
    assert {name: active[name] for name in ("id", "channel")} == {name: ringing[name] for name in ("id", "channel")}
    ended = (await two.caller.ask("call:end", {"callId": ringing["id"]}))["call"]
    assert (ended["status"], ended["endReason"]) == ("ended", "hangup")
    assert at(ended["startedAt"]) <= at(ended["endedAt"]) <= at(ended["paidThrough"])


async def test_agora_tokens_are_for_one_channel_and_two_uids_and_expire_a_grace_after_what_is_paid(
    service: Service, pair: Pairs
) -> None:
    two = await pair(service)
    accepted = await two.talk()
    joined = await two.caller.ask("call:join", {"callId": accepted["call"]["id"]})
    for answer in (accepted, joined):
        agora = answer["agora"]
        assert set(agora) == {"appId", "channel", "uid", "token", "expiresAt"}
        assert (agora["appId"], agora["channel"]) == (AGORA_APP_ID, answer["call"]["channel"])
        assert agora["token"].startswith("007")
        assert isinstance(agora["uid"], int)
        assert 1 <= agora["uid"] < 2**32
        assert at(agora["expiresAt"]) - at(answer["call"]["paidThrough"]) == timedelta(seconds=GRACE_S)
    assert accepted["agora"]["uid"] != joined["agora"]["uid"]
    await two.caller.ask("call:end", {"callId": accepted["call"]["id"]})


# Starting


async def test_the_same_request_id_gives_the_same_call_even_after_it_ended(service: Service, pair: Pairs) -> None:
    two = await pair(service)
    first = await start(two.caller, two.callee.user, "the-request")
    assert await start(two.caller, two.callee.user, "the-request") == first
    call_id = first["call"]["id"]
    await two.caller.ask("call:cancel", {"callId": call_id})
    again = await start(two.caller, two.callee.user, "the-request")
    assert (again["ok"], again["call"]["id"], again["call"]["status"]) == (True, call_id, "ended")
    assert len(two.callee.told("call:incoming")) == 1


async def test_one_request_id_by_several_tabs_at_once_is_one_call(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service)
    tabs = [two.caller, *[await open_tab(service.server, two.caller.user) for _ in range(4)]]
    answers = await asyncio.gather(*(start(tab, two.callee.user, "one") for tab in tabs))
    assert all(answer["ok"] for answer in answers), answers
    assert len({answer["call"]["id"] for answer in answers}) == 1
    await two.caller.ask("call:cancel", {"callId": answers[0]["call"]["id"]})


async def test_several_requests_by_several_tabs_at_once_are_one_call_and_busy(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service)
    tabs = [two.caller, *[await open_tab(service.server, two.caller.user) for _ in range(3)]]
    answers = await asyncio.gather(*(start(tab, two.callee.user) for tab in tabs))
    assert [answer["ok"] for answer in answers].count(True) == 1, answers
    assert {code(answer) for answer in answers if not answer["ok"]} == {"busy"}
    [call] = [answer["call"] for answer in answers if answer["ok"]]
    await two.caller.ask("call:cancel", {"callId": call["id"]})


async def test_request_ids_are_each_users_own(service: Service, pair: Pairs) -> None:
    one, other = await pair(service), await pair(service)
    first = await start(one.caller, one.callee.user, "shared")
    second = await start(other.caller, other.callee.user, "shared")
    assert first["call"]["id"] != second["call"]["id"]
    for two, answer in ((one, first), (other, second)):
        await two.caller.ask("call:cancel", {"callId": answer["call"]["id"]})


async def test_nobody_calls_oneself(service: Service, pair: Pairs) -> None:
    two = await pair(service)
    assert code(await start(two.caller, two.caller.user)) == "self_call"


async def test_who_has_no_tab_is_unavailable_and_who_closed_the_last_one_too(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service)
    assert code(await start(two.caller, someone("never-seen"))) == "callee_unavailable"
    second = await open_tab(service.server, two.callee.user)
    await two.callee.close()
    answer = await start(two.caller, two.callee.user)
    assert answer["ok"], "one of two tabs is left"
    await two.caller.ask("call:cancel", {"callId": answer["call"]["id"]})
    await second.close()

    async def unavailable() -> bool:
        answer = await start(two.caller, two.callee.user)
        if answer["ok"]:
            await two.caller.ask("call:cancel", {"callId": answer["call"]["id"]})
        return not answer["ok"] and code(answer) in {"callee_unavailable", "rate_limited"}

    await eventually(unavailable)


async def test_who_cannot_pay_the_first_period_has_no_call(service: Service, pair: Pairs, browser: Browser) -> None:
    for tokens in (0, 9):
        two = await pair(service, tokens=tokens)
        answer = await start(two.caller, two.callee.user)
        if answer["ok"]:  # found out when it would be paid
            answer = await two.callee.ask("call:accept", {"callId": answer["call"]["id"]})
        assert code(answer) == "insufficient_funds"
        assert await browser.balance(service, two.caller.user) == tokens
    two = await pair(service, tokens=10)
    accepted = await two.talk()
    assert accepted["call"]["tokensSpent"] == 10
    await two.caller.ask("call:end", {"callId": accepted["call"]["id"]})


async def test_a_user_is_in_one_call_at_a_time_ringing_included(
    service: Service, pair: Pairs, browser: Browser
) -> None:
    one, other = await pair(service), await pair(service)
    await browser.grant(service, one.callee.user, 100)
    call_id = (await one.ring())["id"]
    for _ in ("ringing", "active"):
        for free in (other.caller,):
            for engaged in (one.caller, one.callee):
                assert code(await start(free, engaged.user)) == "busy"
                assert code(await start(engaged, other.callee.user)) == "busy"
        await one.callee.ask("call:accept", {"callId": call_id})
    await one.caller.ask("call:end", {"callId": call_id})
    for caller, callee in ((one.callee, other.callee), (other.caller, one.caller)):
        answer = await start(caller, callee.user)
        assert answer["ok"], "both are free again"
        await caller.ask("call:cancel", {"callId": answer["call"]["id"]})


async def test_two_who_call_each_other_at_once_are_in_one_call_at_most(
    service: Service, pair: Pairs, browser: Browser
) -> None:
    two = await pair(service)
    await browser.grant(service, two.callee.user, 100)
    for _ in range(2):
        answers = await asyncio.gather(start(two.caller, two.callee.user), start(two.callee, two.caller.user))
        started = [answer for answer in answers if answer["ok"]]
        assert len(started) == 1, answers
        assert {code(answer) for answer in answers if not answer["ok"]} == {"busy"}
        await two.caller.ask("call:end", {"callId": started[0]["call"]["id"]})


# Answering


async def test_the_first_of_many_tabs_that_accept_at_once_wins(
    service: Service, pair: Pairs, open_tab: Opens, browser: Browser
) -> None:
    two = await pair(service)
    tabs = [two.callee, *[await open_tab(service.server, two.callee.user) for _ in range(5)]]
    call_id = (await two.ring())["id"]
    answers = await asyncio.gather(*(tab.ask("call:accept", {"callId": call_id}) for tab in tabs))
    assert [answer["ok"] for answer in answers].count(True) == 1
    assert {code(answer) for answer in answers if not answer["ok"]} == {"call_already_answered"}
    [winner] = [tab for tab, answer in zip(tabs, answers, strict=True) if answer["ok"]]
    for tab in (*tabs, two.caller):
        [told] = await eventually(lambda tab=tab: tab.told("call:accepted"))
        assert told["answeredBy"] == winner.sid
    assert await browser.balance(service, two.caller.user) == 990
    await two.caller.ask("call:end", {"callId": call_id})


async def test_accept_and_cancel_at_once_leave_a_call_that_is_paid_and_active_or_neither(
    service: Service, pair: Pairs, browser: Browser
) -> None:
    for _ in range(5):
        two = await pair(service)
        call_id = (await two.ring())["id"]
        accepted, _ = await asyncio.gather(
            two.callee.ask("call:accept", {"callId": call_id}), two.caller.ask("call:cancel", {"callId": call_id})
        )
        call = (await browser.get(service, f"/api/v1/calls/{call_id}", user=two.caller.user)).json["call"]
        balance = await browser.balance(service, two.caller.user)
        if accepted["ok"]:
            assert (call["periodsBilled"], balance) == (1, 990)
        else:
            assert code(accepted) == "call_ended"
            assert (call["endReason"], call["periodsBilled"], balance) == ("cancelled", 0, 1000)


ALL = ["accept", "join", "decline", "cancel", "end", "renew"]


@pytest.mark.parametrize("event", ALL)
@pytest.mark.parametrize("state", ["ringing", "active", "ended"])
async def test_to_a_stranger_a_call_is_not_there(
    service: Service, pair: Pairs, open_tab: Opens, state: str, event: str
) -> None:
    two = await pair(service)
    call_id = await in_state(two, state)
    stranger = await open_tab(service.server, someone("stranger"), role="admin", trust="vip")
    assert code(await stranger.ask(f"call:{event}", {"callId": call_id})) == "not_found"
    assert [event for event, _ in stranger.heard] in ([], ["balance:update"])


async def in_state(two: Pair, state: str) -> str:
    call_id: str = (await two.ring())["id"]
    if state != "ringing":
        await two.answer(call_id)
    if state == "ended":
        await two.caller.ask("call:end", {"callId": call_id})
    return call_id


# What each event answers in each state: the call's status and end reason, or the error's code. Where the contract
# leaves two answers open, both stand.
ANSWERS: dict[tuple[str, str, str], set[Any]] = {
    ("ringing", "caller", "accept"): {"not_found", "invalid_payload"},
    ("ringing", "caller", "decline"): {"not_found", "invalid_payload", ("ended", "cancelled")},
    ("ringing", "callee", "decline"): {("ended", "declined")},
    ("ringing", "caller", "cancel"): {("ended", "cancelled")},
    ("ringing", "callee", "cancel"): {"not_found", "invalid_payload", ("ended", "declined")},
    ("ringing", "caller", "end"): {("ended", "cancelled")},
    ("ringing", "callee", "end"): {("ended", "declined")},
    ("active", "caller", "end"): {("ended", "hangup")},
    ("active", "callee", "end"): {("ended", "hangup")},
    ("active", "caller", "join"): {("active", None)},
    ("active", "callee", "join"): {("active", None)},
    ("active", "caller", "renew"): {"agora"},
    ("active", "callee", "renew"): {"agora"},
    ("active", "callee", "accept"): {"call_already_answered", ("active", None)},
    ("ended", "callee", "accept"): {"call_ended"},
    ("ended", "caller", "join"): {"call_ended"},
    ("ended", "callee", "join"): {"call_ended"},
    ("ended", "caller", "renew"): {"call_ended"},
    ("ended", "callee", "renew"): {"call_ended"},
    ("ended", "callee", "decline"): {("ended", "hangup")},
    ("ended", "caller", "cancel"): {("ended", "hangup")},
    ("ended", "caller", "end"): {("ended", "hangup")},
    ("ended", "callee", "end"): {("ended", "hangup")},
}


@pytest.mark.parametrize(("state", "side", "event"), ANSWERS)
async def test_what_an_event_answers_in_each_state(
    service: Service, pair: Pairs, state: str, side: str, event: str
) -> None:
    two = await pair(service)
    call_id = await in_state(two, state)
    tab: Tab = getattr(two, side)
    answer = await tab.ask(f"call:{event}", {"callId": call_id})
    if not answer["ok"]:
        got: Any = code(answer)
    elif "call" in answer:
        got = (answer["call"]["status"], answer["call"]["endReason"])
    else:
        got = "agora"
    assert got in ANSWERS[state, side, event]


@pytest.mark.parametrize(
    ("state", "side", "event"),
    [
        ("ringing", side, event) for side in ("caller", "callee") for event in ("join", "renew")
    ] + [("active", "caller", "accept"), ("active", "callee", "decline"), ("active", "caller", "cancel")],
)  # fmt: skip
async def test_an_event_out_of_place_changes_nothing(
    service: Service, pair: Pairs, browser: Browser, state: str, side: str, event: str
) -> None:
    two = await pair(service)
    call_id = await in_state(two, state)
    answer = await getattr(two, side).ask(f"call:{event}", {"callId": call_id})
    call = (await browser.get(service, f"/api/v1/calls/{call_id}", user=two.caller.user)).json["call"]
    assert call["status"] == state
    assert "agora" not in answer
    assert answer["ok"] is False or answer["call"] == call


@pytest.mark.parametrize(("event", "side", "state"), [
    ("decline", "callee", "ringing"), ("cancel", "caller", "ringing"), ("end", "caller", "active"),
    ("end", "callee", "active"),
])  # fmt: skip
async def test_ending_a_call_again_and_again_is_ending_it_once(
    service: Service, pair: Pairs, state: str, event: str, side: str
) -> None:
    two = await pair(service)
    call_id = await in_state(two, state)
    tab = getattr(two, side)
    answers = await asyncio.gather(*(tab.ask(f"call:{event}", {"callId": call_id}) for _ in range(5)))
    assert all(answer["ok"] for answer in answers), answers
    assert len({repr(answer) for answer in answers}) == 1
    await eventually(lambda: two.caller.told("call:ended") and two.callee.told("call:ended"))
    await two.caller.ask("balance:get")
    assert len(two.caller.told("call:ended")) == len(two.callee.told("call:ended")) == 1


async def test_a_user_takes_the_call_over_in_another_tab_and_has_the_same_uid(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service)
    accepted = await two.talk()
    other_tab = await open_tab(service.server, two.callee.user)
    taken = await other_tab.ask("call:join", {"callId": accepted["call"]["id"]})
    assert taken["agora"]["uid"] == accepted["agora"]["uid"]
    assert taken["agora"]["channel"] == accepted["agora"]["channel"]
    assert taken["call"] == accepted["call"]
    await two.callee.close()
    assert (await other_tab.ask("call:end", {"callId": accepted["call"]["id"]}))["ok"]


async def test_renew_gives_a_token_that_reaches_as_far_as_what_is_paid(service: Service, pair: Pairs) -> None:
    two = await pair(service)
    accepted = await two.talk()
    renewed = await two.callee.ask("call:renew", {"callId": accepted["call"]["id"]})
    assert set(renewed) == {"ok", "agora"}
    for name in ("appId", "channel", "uid", "expiresAt"):
        assert renewed["agora"][name] == accepted["agora"][name]
    await two.caller.ask("call:end", {"callId": accepted["call"]["id"]})


# Limits and time


@pytest.mark.parametrize(("trust", "calls"), [(None, 5), ("basic", 5), ("verified", 15), ("trusted", 30)])
async def test_the_trust_level_is_how_many_calls_a_minute_one_may_start(
    service: Service, open_tab: Opens, browser: Browser, trust: str | None, calls: int
) -> None:
    caller_id, callee = someone("caller"), await open_tab(service.server, someone("callee"))
    await browser.grant(service, caller_id, 1000)
    caller = await open_tab(service.server, caller_id, **({"trust": trust} if trust else {}))
    began = time.monotonic()
    for number in range(calls):
        answer = await start(caller, callee.user, f"r-{number}")
        assert answer["ok"], (number, answer)
        await caller.ask("call:cancel", {"callId": answer["call"]["id"]})
    refused = await start(caller, callee.user, "one-more")
    assert time.monotonic() - began < 60, "too slow to tell: the first of them may be a minute ago"
    assert code(refused) == "rate_limited"
    assert 1 <= refused["error"]["retryAfter"] <= 60
    known = await start(caller, callee.user, "r-0")
    assert known["ok"] or code(known) == "rate_limited", known


async def test_the_limit_of_calls_is_one_for_all_tabs_of_a_user(service: Service, pair: Pairs, open_tab: Opens) -> None:
    two = await pair(service)
    tabs = [two.caller, *[await open_tab(service.server, two.caller.user) for _ in range(5)]]
    codes = []
    for tab in tabs:
        answer = await start(tab, two.callee.user)
        codes.append("ok" if answer["ok"] else code(answer))
        if answer["ok"]:
            await tab.ask("call:cancel", {"callId": answer["call"]["id"]})
    assert codes == ["ok"] * 5 + ["rate_limited"]


async def test_when_a_token_runs_out_its_tab_is_not_served_any_longer(service: Service, open_tab: Opens) -> None:
    tab = await open_tab(service.server, someone(), exp=int(time.time()) + LASTS_S)
    assert (await tab.ask("balance:get"))["ok"]

    async def refused() -> bool:
        if not tab.client.connected:
            return True
        answer = await tab.ask("balance:get")
        return not answer["ok"] and code(answer) == "unauthenticated"

    await eventually(refused)


async def test_a_tab_goes_on_with_a_new_token_of_its_own_user_only(service: Service, open_tab: Opens) -> None:
    tab = await open_tab(service.server, someone(), exp=int(time.time()) + LASTS_S)
    assert code(await tab.ask("auth:renew", {"token": token_of(someone("other"))})) == "unauthenticated"
    assert (await tab.ask("auth:renew", {"token": token_of(tab.user)}))["ok"]
    expired = time.time() + LASTS_S
    await eventually(lambda: time.time() > expired)
    assert (await tab.ask("balance:get"))["ok"]


async def test_a_tab_leaves_the_room_of_its_last_call_when_it_comes_into_the_next(
    service: Service, pair: Pairs
) -> None:
    two = await pair(service)
    first = (await two.talk())["call"]["id"]
    await two.caller.ask("call:end", {"callId": first})
    second = (await two.ring("r-2"))["id"]
    await two.answer(second)
    commands = redis.Redis.from_url(service.redis_url)
    try:

        def rooms_of(call_id: str) -> list[Any]:
            return list(commands.pubsub_channels(f"*call:{call_id}:callee"))

        await eventually(lambda: not rooms_of(first))
        assert rooms_of(second)
    finally:
        commands.close()
