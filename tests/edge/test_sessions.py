"""Browser sessions over real HTTP, real sockets and a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest
import redis.asyncio
import socketio
from aiohttp.test_utils import make_mocked_request

from realtime import config
from realtime.domain.errors import Unauthenticated
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.edge.authentication import Authenticator
from realtime.edge.bff import session_routes
from realtime.edge.routes import Asked
from realtime.services.sessions import MOST_SESSIONS, RENEWAL_OVERLAP_S, Sessions
from tests.edge.browser import Browser
from tests.servers import Launch, Server, eventually, token_of

PRODUCTION = {
    "ENVIRONMENT": "production",
    "ALLOWED_ORIGINS": "https://app.example.com",
    "AGORA_WEBHOOK_SECRET": "an-agora-webhook-secret",
    "STRIPE_SECRET_KEY": "sk_test_of_the_tests",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_of_the_tests",
    "STRIPE_WEBHOOK_SECRET": "whsec_of_the_tests",
}


@pytest.fixture
async def sockets() -> AsyncIterator[list[socketio.AsyncClient]]:
    opened: list[socketio.AsyncClient] = []
    yield opened
    for client in opened:
        await client.disconnect()


def cookie_header(answer: aiohttp.ClientResponse) -> str:
    [header] = answer.headers.getall("Set-Cookie")
    return header


async def test_a_cookie_that_is_no_text_is_nobodys(server: Server, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, server)
    browser.cookie = "\u00ff"
    assert (await browser.ask("GET", "/api/v1/balance")).status == 401
    assert (await browser.who())["authenticated"] is False


async def test_a_burst_of_requests_waits_for_its_turn_at_redis(server: Server) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many:
        browser = Browser(many, server)
        await browser.sign_in("burst")
        answers = await asyncio.gather(*(browser.ask("GET", "/api/v1/me") for _ in range(150)))
        assert {answer.status for answer in answers} == {200}


async def test_a_page_signs_in_is_remembered_and_signs_out(server: Server, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, server)
    nobody = await browser.who()
    assert nobody["authenticated"] is False
    assert nobody["config"]["devLogin"] is True

    signed_in = await browser.sign_in("ann", trust="verified")
    assert await browser.who() == signed_in
    assert (signed_in["userId"], signed_in["trust"], signed_in["role"]) == ("ann", "verified", "user")
    assert signed_in["config"] == nobody["config"]
    me = await browser.ask("GET", "/api/v1/me")
    assert (await me.json())["userId"] == "ann"

    stolen = browser.cookie
    signed_out = await browser.change("DELETE", "/bff/session")
    assert signed_out.status == 204
    assert browser.cookie is None, "the browser was told to forget it"
    browser.cookie = stolen
    assert (await browser.ask("GET", "/api/v1/me")).status == 401, "and it is worth nothing any more"


async def test_the_config_says_what_a_page_needs(server: Server, http: aiohttp.ClientSession) -> None:
    assert (await Browser(http, server).who())["config"] == {
        "environment": "development",
        "agoraConfigured": True,
        "agoraAppId": "970CA35de60c44645bbae8a215061b33",
        "stripePublishableKey": None,
        "stripeApiBase": "http://127.0.0.1:9",
        "tokensPerUsd": 100,
        "periodSeconds": 60,
        "devLogin": True,
        "enhancedFeatures": True,
    }


async def test_the_cookie_is_out_of_scripts_reach(server: Server, http: aiohttp.ClientSession) -> None:
    answer = await Browser(http, server).ask(
        "POST", "/bff/session", headers={"Authorization": f"Bearer {token_of('ann')}"}
    )
    parts = {part.strip() for part in cookie_header(answer).split(";")}
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= parts
    assert "Secure" not in parts, "dropped in development, where there is no TLS"
    assert not any(part.startswith("Domain") for part in parts)
    assert answer.headers["Cache-Control"] == "no-store"


async def test_in_production_the_cookie_is_for_this_host_over_tls_only(
    launch: Launch, http: aiohttp.ClientSession
) -> None:
    server = launch(**PRODUCTION)
    browser = Browser(http, server)
    browser.cookie_name = "__Host-callmeter_session"
    answer = await browser.ask("POST", "/bff/session", headers={"Authorization": f"Bearer {token_of('ann')}"})
    parts = {part.strip() for part in cookie_header(answer).split(";")}
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Secure"} <= parts
    session = await answer.json()
    assert session["config"]["devLogin"] is False
    assert session["config"]["stripePublishableKey"] == "pk_test_of_the_tests"
    assert (await http.post(f"{server.url}/dev/login", json={"userId": "ann"})).status == 404
    assert "max-age=" in answer.headers["Strict-Transport-Security"]


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer ", "Basic YW5uOmFubg==", "Bearer not.a.token"],
    ids=["none", "empty", "basic", "bad"],
)
async def test_a_session_is_made_of_a_valid_bearer_token_only(
    server: Server, http: aiohttp.ClientSession, authorization: str | None
) -> None:
    browser = Browser(http, server)
    answer = await browser.ask(
        "POST", "/bff/session", headers={"Authorization": authorization} if authorization else {}
    )
    assert answer.status == 401
    assert (await answer.json())["code"] == "unauthenticated"
    assert browser.cookie is None


async def test_a_session_is_not_renewed_by_itself(server: Server, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, server)
    await browser.sign_in("ann")
    assert (await browser.change("POST", "/bff/session")).status == 401


async def test_with_a_cookie_what_changes_something_needs_the_csrf_token(
    server: Server, http: aiohttp.ClientSession
) -> None:
    browser = Browser(http, server)
    await browser.sign_in("ann")
    change: dict[str, Any] = {"json": {"tokensPerPeriod": 7}}
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "guessed"}):
        refused = await browser.ask("PUT", "/api/v1/me/rate", headers=headers, **change)
        assert refused.status == 403
        assert (await refused.json())["code"] == "csrf_token_invalid"
        ended = await browser.ask("DELETE", "/bff/session", headers=headers)
        assert ended.status == 403
    assert (await browser.change("PUT", "/api/v1/me/rate", **change)).status == 200
    bearer = {"Authorization": f"Bearer {token_of('ann')}"}
    by_token = await http.put(f"{server.url}/api/v1/me/rate", headers=bearer, **change)
    assert by_token.status == 200, "a token is nobody's to send along unasked"


async def test_another_sessions_csrf_token_does_not_do(server: Server, http: aiohttp.ClientSession) -> None:
    ann, eve = Browser(http, server), Browser(http, server)
    await ann.sign_in("ann")
    await eve.sign_in("eve")
    ann.csrf_token = eve.csrf_token
    assert (await ann.change("PUT", "/api/v1/me/rate", json={"tokensPerPeriod": 7})).status == 403


async def test_a_page_of_another_origin_cannot_sign_a_browser_in(server: Server, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, server)
    for origin in ("https://evil.example", "null", "http://[", f"http://127.0.0.1:{server.port + 1}"):
        answer = await browser.ask(
            "POST", "/bff/session", headers={"Authorization": f"Bearer {token_of('eve')}", "Origin": origin}
        )
        assert answer.status == 403
        assert (await answer.json())["code"] == "origin_not_allowed"
        assert browser.cookie is None


async def test_a_page_of_an_allowed_origin_can(launch: Launch, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, launch(ALLOWED_ORIGINS="https://app.example.com"))
    answer = await browser.ask(
        "POST",
        "/bff/session",
        headers={"Authorization": f"Bearer {token_of('ann')}", "Origin": "https://app.example.com"},
    )
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"


async def test_a_planted_cookie_is_never_taken_up(server: Server, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, server)
    browser.cookie = planted = "planted-by-somebody-else"
    await browser.sign_in("ann")
    assert browser.cookie != planted
    browser.cookie = planted
    assert (await browser.who())["authenticated"] is False
    assert browser.cookie is None, "a cookie that stands for nothing is forgotten"


async def test_signing_in_as_another_user_ends_the_session_that_was_there(
    server: Server, http: aiohttp.ClientSession
) -> None:
    browser = Browser(http, server)
    eve = await browser.sign_in("eve")
    eves_cookie = browser.cookie
    ann = await browser.sign_in("ann")
    assert browser.cookie != eves_cookie
    assert ann["csrfToken"] != eve["csrfToken"]
    browser.cookie = eves_cookie
    assert (await browser.who())["authenticated"] is False


async def test_renewing_changes_the_cookie_and_keeps_the_other_tabs_going(
    server: Server, http: aiohttp.ClientSession
) -> None:
    browser = Browser(http, server)
    before = await browser.sign_in("ann", exp=int(time.time()) + 60)
    former = browser.cookie
    after = await browser.sign_in("ann", role="admin", exp=int(time.time()) + 600)
    assert browser.cookie != former
    assert after["csrfToken"] == before["csrfToken"], "the other tabs hold this one"
    assert after["expiresAt"] > before["expiresAt"]
    assert after["role"] == "admin"
    browser.cookie = former
    assert (await browser.who())["role"] == "user", "a request on its way is still answered, as what it was"


async def test_a_user_has_several_sessions_and_ends_one(server: Server, http: aiohttp.ClientSession) -> None:
    phone, desk = Browser(http, server), Browser(http, server)
    await phone.sign_in("ann")
    await desk.sign_in("ann")
    assert (await phone.change("DELETE", "/bff/session")).status == 204
    assert (await desk.who())["authenticated"] is True


async def test_a_session_ends_with_its_token(server: Server, http: aiohttp.ClientSession) -> None:
    browser = Browser(http, server)
    await browser.sign_in("ann", exp=int(time.time()) + 5)

    async def over() -> bool:
        return (await browser.ask("GET", "/api/v1/me")).status == 401

    await eventually(over)


async def test_a_token_that_holds_for_thousands_of_years_makes_a_session_that_does(
    server: Server, http: aiohttp.ClientSession, sockets: list[socketio.AsyncClient]
) -> None:
    browser = Browser(http, server)
    session = await browser.sign_in("ann", exp=10**14)
    assert session["expiresAt"] == "9999-12-31T23:59:59.000Z"
    sockets.append(client := await browser.open_socket())
    renewed = await client.call("auth:renew", {"token": token_of("ann", exp=10**14)}, timeout=30)
    assert renewed == {"ok": True, "expiresAt": session["expiresAt"]}


async def test_a_socket_opens_with_the_cookie(
    server: Server, http: aiohttp.ClientSession, sockets: list[socketio.AsyncClient]
) -> None:
    browser = Browser(http, server)
    await browser.sign_in("ann")
    client = await browser.open_socket()
    sockets.append(client)
    assert await client.call("balance:get", {}, timeout=30) == {"ok": True, "balance": 0, "version": 0}


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null"])
async def test_a_page_of_another_origin_opens_no_socket_with_the_cookie(
    server: Server, http: aiohttp.ClientSession, sockets: list[socketio.AsyncClient], origin: str
) -> None:
    browser = Browser(http, server)
    await browser.sign_in("ann")
    client = socketio.AsyncClient(reconnection=False)
    sockets.append(client)
    refusals: list[Any] = []
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(
            server.url, headers=browser.socket_headers(origin), transports=["websocket"], wait_timeout=30
        )
    assert refusals[0]["data"]["code"] == "origin_not_allowed"


async def test_the_same_page_opens_one_with_a_token_where_any_origin_is_allowed(
    server: Server, sockets: list[socketio.AsyncClient]
) -> None:
    client = socketio.AsyncClient(reconnection=False)
    sockets.append(client)
    await client.connect(
        server.url, headers={"Origin": "https://elsewhere.example"}, auth={"token": token_of("ann")},
        transports=["websocket"], wait_timeout=30,
    )  # fmt: skip
    assert client.connected


async def test_signing_out_closes_the_sessions_sockets_on_every_instance_and_no_others(
    launch: Launch, http: aiohttp.ClientSession, sockets: list[socketio.AsyncClient]
) -> None:
    one, two = launch(), launch()
    browser, elsewhere = Browser(http, one), Browser(http, one)
    await browser.sign_in("ann")
    await elsewhere.sign_in("ann")
    here = await browser.open_socket()
    kept = await elsewhere.open_socket()
    browser.server = two
    there = await browser.open_socket()
    sockets += [here, there, kept]
    assert (await browser.change("DELETE", "/bff/session")).status == 204
    await eventually(lambda: not here.connected and not there.connected)
    assert (await kept.call("balance:get", {}, timeout=30))["ok"]
    with pytest.raises(socketio.exceptions.ConnectionError):
        await browser.open_socket()


@pytest.fixture
async def kept(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.from_url(redis_url) as client:
        yield client


ANN = Identity("ann", Trust.BASIC, UserRole.USER, expires_at_s=2**33)


async def test_whoever_reads_redis_cannot_put_a_session_on(kept: redis.asyncio.Redis) -> None:
    cookie, session = await Sessions(kept).open(ANN)
    [key] = await kept.keys("*:session:*")
    assert cookie.encode() not in key
    assert cookie.encode() not in await kept.get(key)
    assert await kept.zrange("{callmeter}:sessions-of:ann", 0, -1) == [key.rpartition(b":")[2]]
    assert session.id not in cookie


async def test_a_renewed_sessions_former_cookie_ends_soon(kept: redis.asyncio.Redis) -> None:
    sessions = Sessions(kept)
    former, session = await sessions.open(ANN)
    await sessions.retire(former)
    await sessions.open(ANN, renewed=(former, session))
    lifetimes = sorted([await kept.ttl(key) for key in await kept.keys("*:session:*")])
    assert lifetimes[0] <= RENEWAL_OVERLAP_S < lifetimes[1]


async def test_a_users_session_beyond_the_most_ends_the_oldest_with_its_sockets(
    server: Server, redis_server_url: str, http: aiohttp.ClientSession, sockets: list[socketio.AsyncClient]
) -> None:
    first, second, third, last = (Browser(http, server) for _ in range(4))
    for browser in (first, second):
        await browser.sign_in("crowded")
        sockets.append(await browser.open_socket())
    async with redis.asyncio.from_url(f"{redis_server_url}?db=1") as servers:
        for _ in range(MOST_SESSIONS - 3):
            await Sessions(servers).open(replace(ANN, user_id="crowded"))
    await third.sign_in("crowded")
    await last.sign_in("another")
    assert (await first.who())["authenticated"] is True, "it is the last there is room for"
    await last.sign_in("crowded")
    assert (await first.who())["authenticated"] is False
    await eventually(lambda: not sockets[0].connected)
    await second.sign_in("crowded")  # again, by its cookie: it takes no more room
    for browser in (second, third, last):
        assert (await browser.who())["authenticated"] is True
    assert sockets[1].connected


async def test_a_session_renewed_ever_so_often_takes_the_room_of_one(
    kept: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.services.sessions.MOST_SESSIONS", 20)
    sessions = Sessions(kept)
    elsewhere, _ = await sessions.open(ANN)
    cookie, session = await sessions.open(ANN)
    for _ in range(21):
        renewed, _ = await sessions.open(ANN, renewed=(cookie, session))
        assert await sessions.make_room("ann") == set()
        await sessions.retire(cookie)
        cookie = renewed
    assert (await sessions.find(elsewhere)).identity == ANN


async def test_a_cookie_renewed_again_and_again_makes_no_more_sessions_than_one_may_have(
    kept: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.services.sessions.MOST_SESSIONS", 20)
    hung_up: list[str] = []

    async def hang_up(socket_id: str) -> None:
        hung_up.append(socket_id)

    authenticator = Authenticator(cast(Any, None), Sessions(kept), secure_cookies=False)
    cookie, _ = await authenticator.sessions.open(ANN)
    request = make_mocked_request("POST", "/bff/session", {"Cookie": f"{authenticator.cookie}={cookie}"})
    sign_in = session_routes(config.load(), authenticator, hang_up)[0]
    for _ in range(50):
        await sign_in.handle(Asked(request, ANN, None))
    assert len(await kept.keys("*:session:*")) == 20 + 1, "and the one that was renewed, for a moment"
    assert hung_up == []


async def test_sessions_that_ran_out_make_room_first(
    kept: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.services.sessions.MOST_SESSIONS", 20)
    sessions = Sessions(kept)
    for _ in range(20):
        cookie, _ = await sessions.open(ANN)
        await kept.delete(f"{{callmeter}}:session:{hashlib.sha256(cookie.encode()).hexdigest()}")  # as its time does
    cookies = [(await sessions.open(ANN))[0] for _ in range(20)]
    assert await sessions.make_room("ann") == set()
    for cookie in cookies:
        await sessions.find(cookie)
    assert await kept.zcard("{callmeter}:sessions-of:ann") == 20


async def test_a_session_that_cannot_be_renewed_keeps_its_cookie(kept: redis.asyncio.Redis) -> None:
    authenticator = Authenticator(cast(Any, None), Sessions(kept), secure_cookies=False)
    cookie, _ = await authenticator.sessions.open(ANN)
    request = make_mocked_request("POST", "/bff/session", {"Cookie": f"{authenticator.cookie}={cookie}"})
    sign_in = session_routes(config.load(), authenticator, cast(Any, None))[0]
    with pytest.raises(Unauthenticated):  # the new token has run out since it was checked
        await sign_in.handle(Asked(request, replace(ANN, expires_at_s=1), None))
    [key] = await kept.keys("*:session:*")
    assert await kept.ttl(key) > RENEWAL_OVERLAP_S


async def test_a_lost_redis_ends_sessions(kept: redis.asyncio.Redis) -> None:
    cookie, _ = await Sessions(kept).open(ANN)
    await kept.flushall()
    with pytest.raises(Unauthenticated):
        await Sessions(kept).find(cookie)


async def test_a_session_that_ends_while_a_socket_opens_leaves_no_socket_open(kept: redis.asyncio.Redis) -> None:
    sessions = Sessions(kept)
    for number in range(50):
        cookie, _ = await sessions.open(ANN)
        opened, ended = await asyncio.gather(
            sessions.attach(cookie, f"socket-{number}"), sessions.close(cookie), return_exceptions=True
        )
        assert isinstance(opened, Unauthenticated) or ended == {f"socket-{number}"}, (
            "refused, or known to whoever ended it"
        )
