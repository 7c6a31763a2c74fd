"""Who may do what: every HTTP route and every socket event, by everybody who may try.

The rows are those of the server's own tables: a route or an event without a row here fails, and so does a row whose
route is gone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import jwt
import pytest

from realtime import config
from realtime.edge.routes import Who
from realtime.edge.sockets import EVENTS
from realtime.main import unbuilt_routes
from tests.contract.service import Browser, Pair, Pairs, Serve, Service, someone, sql
from tests.servers import JWT_SECRET, Opens, Tab, eventually, token_of

ROUTES = {f"{route.method} {route.path}": route for route in unbuilt_routes(config.load(_env_file=None))}
SAFE = {"GET", "HEAD"}


@dataclass(frozen=True)
class Row:
    """What each is answered: somebody not concerned, whose it is, the other party of the call, and an admin."""

    stranger: int
    own: int
    party: int
    admin: int
    body: Any = None
    nobody: int = 401
    """Also what an expired or forged token is answered."""


def alike(status: int, **more: Any) -> Row:
    return Row(status, status, status, status, **more)


def for_anyone(status: int, **more: Any) -> Row:
    return alike(status, nobody=status, **more)


HALF_AN_ORDER = {"amountInCents": 500}
EXPECTED = {
    "GET /health": for_anyone(200),
    "GET /ready": for_anyone(200),
    "GET /metrics": for_anyone(200),
    "GET /openapi.json": for_anyone(200),
    "GET /asyncapi.json": for_anyone(200),
    "POST /dev/login": for_anyone(200, body={"userId": "anybody"}),
    "POST /api/csp-report": for_anyone(204, body={"csp-report": {}}),
    "POST /api/v1/webhooks/stripe": for_anyone(400, body={"id": "evt_1", "object": "event"}),
    "POST /api/v1/webhooks/agora": for_anyone(400, body={"noticeId": "n"}),
    "GET /bff/session": for_anyone(200),
    "POST /bff/session": alike(200),
    "DELETE /bff/session": alike(401),
    "GET /api/v1/calls": alike(200),
    "GET /api/v1/calls/{callId}": Row(404, 200, 200, 404),
    "POST /api/v1/calls/{callId}/end": Row(404, 200, 200, 404),
    "GET /api/v1/balance": alike(200),
    "GET /api/v1/earnings": alike(200),
    "GET /api/v1/transactions": alike(200),
    "GET /api/v1/me": alike(200),
    "PUT /api/v1/me/rate": alike(200, body={"tokensPerPeriod": 7}),
    "GET /api/v1/users/online": alike(200),
    "GET /api/v1/ops/overview": Row(403, 403, 403, 200),
    "POST /api/payments/tokens/purchase": alike(400, body=HALF_AN_ORDER),
    "POST /api/v1/payments/purchase-tokens": alike(400, body=HALF_AN_ORDER),
    "GET /api/v1/payments/purchases/{purchaseId}": Row(404, 200, 404, 404),
    "POST /api/v1/admin/grants": Row(403, 403, 403, 200, body={"userId": "ann", "tokens": 1, "reason": "matrix"}),
    "POST /api/v1/admin/refunds": Row(403, 403, 403, 409, body={"purchaseId": "{purchaseId}"}),
}


def test_every_route_has_its_row_and_every_row_its_route() -> None:
    assert set(EXPECTED) == set(ROUTES)


def test_who_is_let_in_where_is_what_the_route_says() -> None:
    for name, row in EXPECTED.items():
        assert (ROUTES[name].who in {Who.ANYONE, Who.SESSION}) == (row.nobody == row.own), name
        assert (ROUTES[name].who is Who.ADMIN) == (row.own == 403 and row.admin != 403), name


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    settings = {"STRIPE_WEBHOOK_SECRET": "whsec_of_the_tests", "AGORA_WEBHOOK_SECRET": "of-the-tests"}
    levels = '{"basic":1000,"verified":1000,"trusted":1000,"vip":1000}'
    with serve(RATE_LIMIT_TRUST_LEVELS=levels, **settings) as service:
        yield service


@dataclass(frozen=True)
class Things:
    """What the paths name: a call of `own` and `party`, and a purchase of `own`."""

    own: str
    party: str
    callId: str
    purchaseId: str

    def fill(self, text: str) -> str:
        return text.replace("{callId}", self.callId).replace("{purchaseId}", self.purchaseId)


@pytest.fixture
async def things(service: Service, pair: Pairs) -> Things:
    two = await pair(service)
    call = await two.ring()
    purchase_id = str(uuid4())
    async with sql(service) as db:
        await db.execute(
            "INSERT INTO purchases (id, user_id, idempotency_key, amount_cents, tokens, payment_method_id, spend_day,"
            " next_check_at) VALUES ($1, $2, 'k', 500, 500, 'pm_1', now()::date, now() + interval '1 day')",
            purchase_id, two.caller.user,
        )  # fmt: skip
    return Things(two.caller.user, two.callee.user, call["id"], purchase_id)


async def ask(service: Service, browser: Browser, name: str, things: Things, token: str | None, **headers: str) -> Any:
    row = EXPECTED[name]
    method, path = name.split(" ")
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if name == "POST /api/csp-report":
        headers["Content-Type"] = "application/csp-report"
    elif row.body is not None:
        headers["Content-Type"] = "application/json"
    body = things.fill(json.dumps(row.body)) if row.body is not None else None
    return await browser.request(
        service, method, things.fill(path), data=body, headers={"Idempotency-Key": uuid4().hex, **headers}
    )


async def test_each_route_answers_each_caller_as_it_should(service: Service, browser: Browser, things: Things) -> None:
    callers = {
        "stranger": token_of(someone("stranger")), "admin": token_of(someone("admin"), role="admin"),
        "party": token_of(things.party), "own": token_of(things.own),
    }  # fmt: skip
    wrong = []
    for name, row in EXPECTED.items():
        for caller, token in callers.items():
            answer = await ask(service, browser, name, things, token)
            if answer.status != getattr(row, caller):
                wrong.append((name, caller, answer.status, answer.text))
            if caller in {"stranger", "admin"} and name != "POST /api/v1/admin/refunds":
                for secret in (things.callId, things.purchaseId):
                    assert secret not in answer.text, (name, caller)
        answer = await ask(service, browser, name, things, None)
        if answer.status != row.nobody:
            wrong.append((name, "nobody", answer.status, answer.text))
    assert wrong == []


def _unsigned(claims: dict[str, Any], algorithm: str = "none", signature: str = "") -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims)}.{signature}"


def forged(user: str) -> dict[str, str]:
    """Tokens that say they are an admin's of this name, each wrong in one way."""
    claims = {"sub": user, "role": "admin", "exp": int(time.time()) + 600}
    good = token_of(user, role="admin").split(".")
    return {
        "expired": token_of(user, role="admin", exp=int(time.time()) - 60),
        "no algorithm": _unsigned(claims),
        "no algorithm, in capitals": _unsigned(claims, "NONE"),
        "no signature": _unsigned(claims, "HS256"),
        "another's signature": _unsigned(claims, "HS256", good[2]),
        "another algorithm of the same secret": jwt.encode(claims, JWT_SECRET + "." * 64, algorithm="HS512"),
        "another secret": jwt.encode(claims, "another secret that is long enough", algorithm="HS256"),
        "an asymmetric algorithm's name": _unsigned(claims, "RS256", good[2]),
        "no expiry": jwt.encode({"sub": user, "role": "admin"}, JWT_SECRET, algorithm="HS256"),
        "a role of its own": jwt.encode(claims | {"role": "root"}, JWT_SECRET, algorithm="HS256"),
        "no user": jwt.encode(claims | {"sub": ""}, JWT_SECRET, algorithm="HS256"),
        "text behind it": ".".join(good) + ".x",
    }


async def test_an_expired_or_forged_token_is_nobodys_on_every_route(
    service: Service, browser: Browser, things: Things
) -> None:
    """Even where nobody has to be known it lets nobody in as somebody."""
    wrong = []
    for kind, token in forged(things.own).items():
        for name, row in EXPECTED.items():
            answer = await ask(service, browser, name, things, token)
            if answer.status != row.nobody or (row.nobody == 401 and answer.json["code"] != "unauthenticated"):
                wrong.append((kind, name, answer.status, answer.text))
    assert wrong == []


@pytest.fixture
async def page(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield http


async def test_with_a_session_and_no_csrf_token_no_route_changes_anything(
    service: Service, page: aiohttp.ClientSession, things: Things
) -> None:
    """Whatever else another site can make a browser send along with the cookie."""
    async with page.post(
        f"{service.url}/bff/session", headers={"Authorization": f"Bearer {token_of(things.own, role='admin')}"}
    ) as answer:
        assert answer.status == 200
    wrong = []
    for name, row in EXPECTED.items():
        method, path = name.split(" ")
        if method in SAFE or ROUTES[name].who in {Who.ANYONE, Who.BEARER}:
            continue
        for csrf in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "guessed"}, {"Cookie": "csrf=x"}):
            headers = {"Idempotency-Key": uuid4().hex, "Content-Type": "text/plain", **csrf}
            body = things.fill(json.dumps(row.body))
            async with page.request(method, service.url + things.fill(path), data=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status not in {401, 403}:
                    wrong.append((name, csrf, answer.status, text))
    assert wrong == []


# -- sockets -----------------------------------------------------------------------------------------------------------

CALL_EVENTS = {
    # What each is answered while the call rings; "ok" or the error's code.
    "call:accept": {"stranger": "not_found", "admin": "not_found", "caller": "not_found", "callee": "ok"},
    "call:decline": {"stranger": "not_found", "admin": "not_found", "caller": "not_found", "callee": "ok"},
    "call:cancel": {"stranger": "not_found", "admin": "not_found", "callee": "not_found", "caller": "ok"},
    "call:join": {"stranger": "not_found", "admin": "not_found", "caller": "unavailable", "callee": "unavailable"},
    "call:renew": {"stranger": "not_found", "admin": "not_found", "caller": "unavailable", "callee": "unavailable"},
    "call:end": {"stranger": "not_found", "admin": "not_found", "caller": "ok"},
}
OTHER_EVENTS = {
    "call:start": {"stranger": "insufficient_funds", "admin": "insufficient_funds", "caller": "busy"},
    "balance:get": {"stranger": "ok", "admin": "ok", "caller": "ok", "callee": "ok"},
    "auth:renew": {"stranger": "unauthenticated", "admin": "unauthenticated", "caller": "unauthenticated"},
    "ops:watch": {"stranger": "forbidden", "admin": "ok", "caller": "forbidden", "callee": "forbidden"},
    "ops:unwatch": {"stranger": "ok", "admin": "ok", "caller": "ok", "callee": "ok"},
}


def test_every_event_has_its_row_and_every_row_its_event() -> None:
    assert set(CALL_EVENTS) | set(OTHER_EVENTS) == set(EVENTS)


@pytest.fixture
async def outsiders(service: Service, open_tab: Opens) -> dict[str, Tab]:
    return {
        "stranger": await open_tab(service.server, someone("stranger")),
        "admin": await open_tab(service.server, someone("admin"), role="admin"),
    }


def code_of(answer: dict[str, Any]) -> str:
    return "ok" if answer["ok"] else answer["error"]["code"]


def payload_of(event: str, two: Pair, call_id: str) -> dict[str, Any]:
    match event:
        case "call:start":
            return {"calleeId": two.callee.user, "requestId": uuid4().hex}
        case "auth:renew":
            return {"token": token_of(two.callee.user)}  # good, and another's
        case _:
            return {"callId": call_id} if event in CALL_EVENTS else {}


@pytest.mark.parametrize("event", EVENTS)
async def test_each_event_is_answered_to_each_as_it_should(
    service: Service, pair: Pairs, outsiders: dict[str, Tab], event: str
) -> None:
    two = await pair(service)
    call = await two.ring()
    tabs = outsiders | {"caller": two.caller, "callee": two.callee}
    expected = (CALL_EVENTS | OTHER_EVENTS)[event]
    answers = {who: await tabs[who].ask(event, payload_of(event, two, call["id"])) for who in expected}
    assert {who: code_of(answer) for who, answer in answers.items()} == expected
    for who, tab in outsiders.items():
        heard = json.dumps([answers[who], tab.heard])
        assert call["id"] not in heard, f"{who} learned of the call"


async def test_a_socket_whose_token_has_run_out_does_nothing_but_renew(
    service: Service, pair: Pairs, open_tab: Opens
) -> None:
    two = await pair(service)
    call = await two.ring()
    tab = await open_tab(service.server, two.caller.user, role="admin", exp=int(time.time()) + 5)

    async def expired() -> bool:
        return code_of(await tab.ask("balance:get")) == "unauthenticated"

    await eventually(expired)
    answers = await asyncio.gather(
        *(tab.ask(event, payload_of(event, two, call["id"])) for event in EVENTS if event != "auth:renew")
    )
    assert {code_of(answer) for answer in answers} == {"unauthenticated"}
    assert code_of(await tab.ask("auth:renew", {"token": token_of(two.caller.user)})) == "ok"
    assert code_of(await tab.ask("balance:get")) == "ok"
    assert code_of(await tab.ask("ops:watch")) == "forbidden", "the new token's role counts"
