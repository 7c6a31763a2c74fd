"""Kicking rules, against a stand-in for Agora's REST API."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from realtime.adapters.agora_rest import AgoraRest, Outcome
from tests.integration.agora_fake import FakeAgora, after, hang_up, silence, status

RULES = FakeAgora.RULES
CHANNEL = "call_1"


@pytest.fixture
async def agora() -> AsyncIterator[FakeAgora]:
    async with FakeAgora().serving() as fake:
        yield fake


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def client(agora: FakeAgora, session: aiohttp.ClientSession, *, timeout_s: float = 20.0, **others: str) -> AgoraRest:
    settings = {
        "app_id": agora.app_id,
        "customer_id": agora.customer_id,
        "customer_secret": agora.customer_secret,
        "base": agora.base,
    }
    return AgoraRest(session, **(settings | others), timeout_s=timeout_s)


@pytest.fixture
def rest(agora: FakeAgora, session: aiohttp.ClientSession) -> AgoraRest:
    return client(agora, session)


@pytest.fixture
def impatient(agora: FakeAgora, session: aiohttp.ClientSession) -> AgoraRest:
    return client(agora, session, timeout_s=0.3)


async def test_a_kick_makes_one_rule_for_one_user_of_one_channel(agora, rest):
    assert await rest.kick(CHANNEL, 7, seconds=600) is Outcome.DONE
    assert agora.put_out == [
        {
            "appid": agora.app_id,
            "cname": CHANNEL,
            "uid": 7,
            "ip": "",
            "time_in_seconds": 600,
            "privileges": ["join_channel"],
        }
    ]
    assert agora.requests == [("POST", RULES)]


async def test_a_base_with_a_slash_at_its_end_is_the_same_base(agora, session):
    assert await client(agora, session, base=agora.base + "/").kick(CHANNEL, 7, seconds=600) is Outcome.DONE


@pytest.mark.parametrize("lost", [silence, hang_up, status(504), status(200, "<html>"), status(200, "[]")])
async def test_a_rule_that_was_made_though_its_answer_was_lost_is_found(agora, impatient, lost):
    agora.reply("POST", RULES, after(agora.make_rule, lost))
    assert await impatient.kick(CHANNEL, 7, seconds=600) is Outcome.DONE
    assert agora.requests == [("POST", RULES), ("GET", RULES)]


@pytest.mark.parametrize("lost", [silence, hang_up, status(200, ""), status(200, '{"status": "success"')])
async def test_a_rule_that_is_not_found_after_a_lost_answer_is_unknown_and_worth_another_try(agora, impatient, lost):
    agora.reply("POST", RULES, lost)
    outcome = await impatient.kick(CHANNEL, 7, seconds=600)
    assert outcome is Outcome.UNKNOWN
    assert outcome.retryable
    assert await impatient.kick(CHANNEL, 7, seconds=600) is Outcome.DONE


@pytest.mark.parametrize(
    "other",
    [
        {"cname": "call_2"},
        {"uid": 8},
        {"uid": None},
        {"privileges": ["publish_audio"]},
        {"privileges": "join_channel"},
        {"privileges": None},
    ],
)
async def test_another_rule_is_not_taken_for_the_one_that_was_wanted(agora, impatient, other):
    agora.rules = [{"cname": CHANNEL, "uid": 7, "privileges": ["join_channel"]} | other, "junk"]
    agora.reply("POST", RULES, silence)
    assert await impatient.kick(CHANNEL, 7, seconds=600) is Outcome.UNKNOWN


@pytest.mark.parametrize("second", [silence, hang_up, status(500), status(429), status(200, '{"rules": 7}')])
async def test_when_looking_for_the_rule_fails_too_the_outcome_is_unknown(agora, impatient, second):
    agora.reply("POST", RULES, after(agora.make_rule, silence))
    agora.reply("GET", RULES, second, second)  # the HTTP client itself repeats a GET whose connection broke
    assert await impatient.kick(CHANNEL, 7, seconds=600) is Outcome.UNKNOWN


async def test_a_kick_without_a_ban_leaves_no_rule_to_look_for(agora, impatient):
    assert await impatient.kick(CHANNEL, 7, seconds=0) is Outcome.DONE
    assert agora.put_out[0]["time_in_seconds"] == 0
    agora.reply("POST", RULES, silence)
    assert await impatient.kick(CHANNEL, 7, seconds=0) is Outcome.UNKNOWN
    assert ("GET", RULES) not in agora.requests


@pytest.mark.parametrize(
    ("code", "outcome", "retryable"),
    [
        (429, Outcome.RATE_LIMITED, True),
        (500, Outcome.SERVER_ERROR, True),
        (503, Outcome.SERVER_ERROR, True),
        (504, Outcome.SERVER_ERROR, True),
        (400, Outcome.REFUSED, False),
        (404, Outcome.REFUSED, False),
        (415, Outcome.REFUSED, False),
        (302, Outcome.REFUSED, False),
        (401, Outcome.UNAUTHORIZED, False),
        (403, Outcome.UNAUTHORIZED, False),
    ],
)
@pytest.mark.parametrize("body", ['{"message": "no"}', "", "<html>"], ids=["JSON", "empty", "a page"])
async def test_each_refusal_of_a_kick_has_its_name_and_says_whether_trying_again_helps(
    agora, rest, code, outcome, retryable, body
):
    agora.reply("POST", RULES, status(code, body))
    assert await rest.kick(CHANNEL, 7, seconds=600) is outcome
    assert outcome.retryable is retryable


async def test_a_success_that_does_not_say_so_is_unknown(agora, rest):
    agora.reply("POST", RULES, status(200, '{"status": "pending"}'))
    assert await rest.kick(CHANNEL, 7, seconds=600) is Outcome.UNKNOWN


async def test_the_credentials_are_sent_and_wrong_ones_are_named(agora, session):
    assert await client(agora, session, customer_secret="another").kick(CHANNEL, 7, seconds=600) is Outcome.UNAUTHORIZED
    assert agora.put_out == []


async def test_the_credentials_follow_no_redirection(agora, rest):
    async def elsewhere(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": agora.base + "/elsewhere"})

    agora.reply("POST", RULES, elsewhere)
    assert await rest.kick(CHANNEL, 7, seconds=600) is Outcome.REFUSED
    assert agora.requests == [("POST", RULES)]


async def test_where_nobody_listens_the_request_never_left(agora, session):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        rest = client(agora, session, base=f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert await rest.kick(CHANNEL, 7, seconds=600) is Outcome.UNREACHABLE
        assert Outcome.UNREACHABLE.retryable


async def test_an_answer_without_end_is_not_read_to_its_end(agora, rest, monkeypatch):
    monkeypatch.setattr("realtime.adapters.agora_rest._MAX_ANSWER_BYTES", 10_000)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 5_000)
        except ConnectionError:
            return response

    agora.reply("POST", RULES, endless)
    assert await rest.kick(CHANNEL, 7, seconds=600) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("channel", "uid", "seconds"),
    [
        ("", 7, 600),
        ("a/b", 7, 600),
        ("x" * 65, 7, 600),
        (CHANNEL, 0, 600),
        (CHANNEL, 2**32, 600),
        (CHANNEL, 7, 9),
        (CHANNEL, 7, 86_431),
        (CHANNEL, 7, -1),
    ],
)
async def test_a_kick_agora_would_not_take_or_would_take_for_anybody_is_never_sent(agora, rest, channel, uid, seconds):
    with pytest.raises(ValueError, match=r"not an Agora|kicking rule lasts"):
        await rest.kick(channel, uid, seconds=seconds)
    assert agora.requests == []
