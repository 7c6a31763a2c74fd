"""Section 5: who is told what, on every tab and on every instance, and no one else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import socketio

from tests.contract.service import Browser, Pair, Pairs, Serve, Service, someone, told_of
from tests.servers import Opens, Tab, eventually, token_of


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve(instances=2, RATE_LIMIT_TRUST_LEVELS='{"basic":100,"verified":100,"trusted":100,"vip":100}') as service:
        yield service


@dataclass
class Party:
    """Two people with two tabs on each of two instances, and a third with one on each who should hear nothing."""

    two: Pair
    caller: list[Tab]
    callee: list[Tab]
    stranger: list[Tab]

    @property
    def both(self) -> list[Tab]:
        return self.caller + self.callee


@pytest.fixture
async def party(service: Service, browser: Browser, open_tab: Opens) -> Party:
    caller, callee, stranger = someone("caller"), someone("callee"), someone("stranger")
    await browser.grant(service, caller, 1000)
    one, two = service.servers
    tabs = [
        [await open_tab(server, user) for server in servers]
        for user, servers in ((caller, (one, one, two, two)), (callee, (two, two, one, one)), (stranger, (one, two)))
    ]
    for tab in (tab for some in tabs for tab in some):
        await eventually(lambda tab=tab: tab.told("balance:update"))
    return Party(Pair(tabs[0][0], tabs[1][0]), *tabs)


def events(tab: Tab) -> list[str]:
    return [event for event, _ in tab.heard]


def invalidated(tab: Tab) -> list[list[str]]:
    return [key for push in tab.told("query:invalidate") for key in push["queryKeys"]]


async def until_told(tabs: list[Tab], event: str, count: int = 1) -> list[list[Any]]:
    """What each tab was told by `event`, once each was told so often."""
    for tab in tabs:
        await eventually(lambda tab=tab: len(tab.told(event)) >= count)
    return [tab.told(event) for tab in tabs]


async def test_each_push_of_a_call_comes_to_every_tab_of_whom_it_is_for_and_to_no_other(
    service: Service, browser: Browser, party: Party
) -> None:
    ringing = await party.two.ring()
    call_id = ringing["id"]
    for told in await until_told(party.callee, "call:incoming"):
        assert told == [{"call": ringing}]

    accepted = await party.two.answer(call_id)
    for told in await until_told(party.both, "call:accepted"):
        assert told == [{"call": accepted["call"], "answeredBy": party.callee[0].sid}]
    for told in await until_told(party.caller, "balance:update", 2):
        assert told[1] == {
            "balance": 990, "version": 2, "delta": -10, "reason": "call_debit", "callId": call_id,
            "queryKey": ["tokenBalance"],
        }  # fmt: skip
    for told in await until_told(party.callee, "earnings:update"):
        assert told == [
            {
                "balance": 8,
                "version": 1,
                "delta": 8,
                "reason": "call_debit",
                "callId": call_id,
                "queryKey": ["earnings"],
            }
        ]

    ended = await party.two.caller.ask("call:end", {"callId": call_id})
    for told in await until_told(party.both, "call:ended"):
        assert told == [{"call": ended["call"]}]
    for tab in party.both:
        await eventually(lambda tab=tab: ["calls"] in invalidated(tab))
    for tab in party.caller:
        assert ["transactions"] in invalidated(tab)

    # A grant to each: what comes last comes after all that was to come.
    for tabs in (party.caller, party.callee, party.stranger):
        await browser.grant(service, tabs[0].user, 1)
        for tab in tabs:
            await eventually(lambda tab=tab: [push for push in tab.told("balance:update") if push["delta"] == 1])
    for tab in party.caller:
        assert not tab.told("call:incoming")
        assert not tab.told("earnings:update")
    for tab in party.callee:
        assert [push["reason"] for push in tab.told("balance:update")] == ["snapshot", "grant"]
    for tab in party.both:
        assert not tab.told("call:token"), "one period was paid, and its tokens came with the answers"
        assert [events(tab).count(event) for event in ("call:accepted", "call:ended")] == [1, 1]
    for tab in party.stranger:
        assert [push["reason"] for push in tab.told("balance:update")] == ["snapshot", "grant"]
        assert set(events(tab)) <= {"balance:update", "query:invalidate"}
        assert call_id not in repr(tab.heard)


async def test_a_declined_call_stops_ringing_on_every_tab(service: Service, party: Party) -> None:
    call_id = (await party.two.ring())["id"]
    await until_told(party.callee, "call:incoming")
    await party.callee[3].ask("call:decline", {"callId": call_id})
    for told in await until_told(party.both, "call:ended"):
        assert [push["call"]["endReason"] for push in told] == ["declined"]


async def test_a_grant_comes_to_every_tab_with_the_next_version(
    service: Service, browser: Browser, party: Party
) -> None:
    for number in (1, 2, 3):
        await browser.grant(service.servers[number % 2], party.caller[0].user, number)
    for told in await until_told(party.caller, "balance:update", 4):
        assert [push["version"] for push in told] == [1, 2, 3, 4]
        assert [push["balance"] for push in told] == [1000, 1001, 1003, 1006]
        assert [push["delta"] for push in told[1:]] == [1, 2, 3]
        assert {tuple(push["queryKey"]) for push in told} == {("tokenBalance",)}


async def test_the_snapshot_is_the_first_thing_a_tab_hears_whatever_changes_while_it_connects(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    user = someone("early")

    async def keep_granting() -> None:
        for _ in range(30):
            await browser.grant(service, user, 1)

    granting = asyncio.create_task(keep_granting())
    tabs = [await open_tab(service.servers[number % 2], user) for number in range(20)]
    await granting
    for tab in tabs:
        told = await eventually(
            lambda tab=tab: (told := tab.told("balance:update")) and told[-1]["version"] == 30 and told
        )
        assert [push["reason"] for push in told] == ["snapshot"] + ["grant"] * (len(told) - 1)
        newer = [push["version"] for push in told if push["version"] > told[0]["version"]]
        assert newer == list(range(told[0]["version"] + 1, 31)), "nothing is missing after the snapshot"


async def test_fifty_tabs_of_one_user_hear_the_same_in_the_same_order(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    user = someone("many")
    tabs = await asyncio.gather(*(open_tab(service.servers[number % 2], user) for number in range(50)))
    await until_told(tabs, "balance:update")
    for tokens in range(1, 11):
        await browser.grant(service, user, tokens)
    for told in await until_told(tabs, "balance:update", 11):
        assert [push["version"] for push in told] == list(range(11))
    caller = await open_tab(service.server, someone("caller"))
    await browser.grant(service, caller.user, 100)
    two = Pair(caller, tabs[0])
    call_id = (await two.ring())["id"]
    await until_told(tabs, "call:incoming")
    answers = await asyncio.gather(*(tab.ask("call:accept", {"callId": call_id}) for tab in tabs))
    assert [answer["ok"] for answer in answers].count(True) == 1
    winner = tabs[[answer["ok"] for answer in answers].index(True)]
    for told in await until_told(tabs, "call:accepted"):
        assert [push["answeredBy"] for push in told] == [winner.sid]
    await caller.ask("call:end", {"callId": call_id})
    await until_told(tabs, "call:ended")


async def test_users_whose_ids_look_alike_hear_nothing_of_each_other(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    base = someone("ann")
    names = [
        base,
        base + " ",
        " " + base,
        base.upper(),
        base + ":1",
        f"user:{base}",
        base + "*",
        base + "/",
        f"{base}'",
    ]
    names += [base.replace("a", "а", 1), base + "\u200b", "ｕser:" + base]
    tabs = [await open_tab(service.servers[number % 2], name) for number, name in enumerate(names)]
    await until_told(tabs, "balance:update")
    for number, name in enumerate(names, 1):
        await browser.grant(service, name, number)
    for number, tab in enumerate(tabs, 1):
        await eventually(lambda tab=tab: len(tab.told("balance:update")) >= 2)
        assert [push["balance"] for push in tab.told("balance:update")] == [0, number]


async def test_a_user_cannot_listen_in_a_room_by_being_named_like_it(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service, on=service.servers[1])
    call_id = (await two.ring())["id"]
    spies = [
        await open_tab(service.server, name.format(call_id))
        for name in ("{}", "call:{}", "call:{}:caller", "call:{}:callee", two.caller.sid, f"user:{two.caller.user}")
    ]
    await until_told(spies, "balance:update")
    await two.answer(call_id)
    await two.caller.ask("call:end", {"callId": call_id})
    await eventually(lambda: told_of(two.callee, "call:ended", call_id))
    for spy in spies:
        await spy.ask("balance:get")
        assert [push["reason"] for push in spy.told("balance:update")] == ["snapshot"]
        assert set(events(spy)) == {"balance:update"}


# Snapshots


async def test_on_connect_comes_the_balance_and_nothing_else(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    user = someone()
    await browser.grant(service, user, 42)
    tab = await open_tab(service.server, user)
    await eventually(lambda: tab.heard)
    await tab.ask("balance:get")
    [(event, told)] = tab.heard
    assert event == "balance:update"
    assert told == {"balance": 42, "version": 1, "delta": 0, "reason": "snapshot", "queryKey": ["tokenBalance"]}


async def test_a_tab_that_comes_while_it_rings_is_rung(service: Service, pair: Pairs, open_tab: Opens) -> None:
    two = await pair(service)
    ringing = await two.ring()
    for server in service.servers:
        tab = await open_tab(server, two.callee.user)
        await eventually(lambda tab=tab: tab.told("call:incoming"))
        assert tab.told("call:incoming") == [{"call": ringing}]
        assert tab.told("balance:update")[0]["reason"] == "snapshot"
    await two.caller.ask("call:cancel", {"callId": ringing["id"]})


async def test_a_tab_of_either_that_comes_in_a_call_is_told_of_it(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service)
    accepted = await two.talk()
    for user in (two.caller.user, two.callee.user):
        for server in service.servers:
            tab = await open_tab(server, user)
            await eventually(lambda tab=tab: tab.told("call:accepted"))
            assert tab.told("call:accepted") == [{"call": accepted["call"], "answeredBy": two.callee.sid}]
            assert tab.told("balance:update")[0]["reason"] == "snapshot"
    await two.caller.ask("call:end", {"callId": accepted["call"]["id"]})
    tab = await open_tab(service.server, two.caller.user)
    await eventually(lambda: tab.told("balance:update"))
    await tab.ask("balance:get")
    assert events(tab) == ["balance:update"], "the call is over"


async def test_the_official_javascript_client_gets_the_same_snapshot_by_each_transport(
    service: Service, pair: Pairs, open_javascript_tab: Opens
) -> None:
    two = await pair(service)
    accepted = await two.talk()
    for transports in ("websocket", "polling", "polling,websocket"):
        tab = await open_javascript_tab(service.servers[1], two.caller.user, transports=transports)
        await eventually(lambda tab=tab: tab.told("call:accepted"))
        assert tab.told("call:accepted")[0]["call"] == accepted["call"]
        assert tab.told("balance:update")[0] == tab.told("balance:update")[0] | {"balance": 990, "version": 2}
    await two.caller.ask("call:end", {"callId": accepted["call"]["id"]})


async def test_a_tab_that_connects_with_a_bad_token_is_told_nothing(service: Service, pair: Pairs) -> None:
    two = await pair(service)
    tab = Tab(service.server, two.callee.user, token_of(two.callee.user) + "x")
    with pytest.raises(socketio.exceptions.ConnectionError):
        await tab.connect()
    call_id = (await two.ring())["id"]
    await two.caller.ask("call:cancel", {"callId": call_id})
    assert tab.heard == []
