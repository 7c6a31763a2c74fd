"""Section 4: the HTTP routes, but for payments."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from openapi_spec_validator import validate

from tests.contract.service import Answer, Browser, Pairs, Serve, Service, refused, someone
from tests.servers import Opens, eventually

ALLOWED = "https://app.example.org"


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve(
        ALLOWED_ORIGINS=f"{ALLOWED},https://other.example.org",
        RATE_LIMIT_TRUST_LEVELS='{"basic":1000,"verified":1000,"trusted":1000,"vip":1000}',
    ) as service:
        yield service


def items(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = answer.json["items"]
    return found


# Health


async def test_health_says_healthy_and_the_time(service: Service, browser: Browser) -> None:
    answer = await browser.get(service, "/health")
    assert answer.status == 200
    assert set(answer.json) == {"status", "timestamp"}
    assert answer.json["status"] == "healthy"
    said = datetime.fromisoformat(answer.json["timestamp"])
    assert abs((datetime.now(UTC) - said).total_seconds()) < 60


async def test_ready_says_ready(service: Service, browser: Browser) -> None:
    answer = await browser.get(service, "/ready")
    assert (answer.status, answer.json) == (200, {"status": "ready"})


# Balance and earnings


async def test_a_user_never_seen_before_has_a_balance_of_nothing(service: Service, browser: Browser) -> None:
    nobody = someone()
    answer = await browser.get(service, "/api/v1/balance", user=nobody)
    assert (answer.status, answer.json) == (
        200,
        {"balance": 0, "version": 0, "unit": "TOKEN", "queryKey": ["tokenBalance"]},
    )
    answer = await browser.get(service, "/api/v1/earnings", user=nobody)
    assert (answer.status, answer.json) == (
        200,
        {"balance": 0, "version": 0, "unit": "TOKEN", "queryKey": ["earnings"]},
    )


async def test_balance_and_earnings_are_two_accounts_and_each_version_counts_its_entries(
    service: Service, browser: Browser, pair: Pairs
) -> None:
    two = await pair(service, tokens=1000)
    await browser.grant(service, two.callee.user, 7)
    call_id = (await two.talk())["call"]["id"]
    await two.caller.ask("call:end", {"callId": call_id})
    payer = await browser.get(service, "/api/v1/balance", user=two.caller.user)
    assert (payer.json["balance"], payer.json["version"]) == (990, 2)
    earned = await browser.get(service, "/api/v1/earnings", user=two.callee.user)
    assert (earned.json["balance"], earned.json["version"], earned.json["queryKey"]) == (8, 1, ["earnings"])
    own = await browser.get(service, "/api/v1/balance", user=two.callee.user)
    assert (own.json["balance"], own.json["version"]) == (7, 1)


@pytest.mark.parametrize("path", ["balance", "earnings", "transactions", "calls", "calls/x", "me/rate"])
async def test_nothing_of_anyone_is_told_to_nobody(service: Service, browser: Browser, path: str) -> None:
    method = "PUT" if path == "me/rate" else "GET"
    refused(await browser.request(service, method, f"/api/v1/{path}"), 401, "unauthenticated")


async def test_answers_about_a_person_are_not_kept_by_caches(service: Service, browser: Browser) -> None:
    for path in ("balance", "earnings", "transactions", "calls"):
        answer = await browser.get(service, f"/api/v1/{path}", user=someone())
        assert "no-store" in answer.headers.get("Cache-Control", ""), path


# Pages of transactions and calls


async def pages(browser: Browser, service: Service, path: str, user: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    for _ in range(100):
        answer = await browser.get(service, f"{path}?limit={limit}{cursor}", user=user)
        page = items(answer)
        assert len(page) <= limit
        found += page
        if answer.json["nextCursor"] is None:
            return found
        cursor = f"&cursor={answer.json['nextCursor']}"
    raise AssertionError("the pages have no end")


async def test_transactions_come_newest_first_and_pages_leave_none_out(service: Service, browser: Browser) -> None:
    user = someone()
    for tokens in range(1, 8):
        await browser.grant(service, user, tokens)
    whole = items(await browser.get(service, "/api/v1/transactions", user=user))
    assert [entry["amount"] for entry in whole] == [7, 6, 5, 4, 3, 2, 1]
    for limit in (1, 2, 3, 7, 50):
        assert await pages(browser, service, "/api/v1/transactions", user, limit) == whole


async def test_a_cursor_stays_where_it_is_while_new_transactions_come(service: Service, browser: Browser) -> None:
    user = someone()
    for tokens in range(1, 6):
        await browser.grant(service, user, tokens)
    first = await browser.get(service, "/api/v1/transactions?limit=2", user=user)
    await browser.grant(service, user, 6)
    second = await browser.get(service, f"/api/v1/transactions?limit=10&cursor={first.json['nextCursor']}", user=user)
    assert [entry["amount"] for entry in items(first) + items(second)] == [5, 4, 3, 2, 1]


async def test_transactions_say_what_a_call_cost_and_are_ones_own(
    service: Service, browser: Browser, pair: Pairs
) -> None:
    two = await pair(service, tokens=50)
    call_id = (await two.talk())["call"]["id"]
    await two.caller.ask("call:end", {"callId": call_id})
    debit, grant = items(await browser.get(service, "/api/v1/transactions", user=two.caller.user))
    assert (debit["type"], debit["amount"]) == ("call_debit", -10)
    assert (grant["type"], grant["amount"]) == ("grant", 50)
    assert items(await browser.get(service, "/api/v1/transactions", user=someone())) == []


async def test_calls_are_listed_newest_first_to_both_and_to_no_one_else(
    service: Service, browser: Browser, pair: Pairs
) -> None:
    two = await pair(service)
    rung = []
    for number in range(5):
        call_id = (await two.ring(f"r-{number}"))["id"]
        await two.caller.ask("call:cancel", {"callId": call_id})
        rung.append(call_id)
    for user in (two.caller.user, two.callee.user):
        listed = await pages(browser, service, "/api/v1/calls", user, 2)
        assert [call["id"] for call in listed] == rung[::-1]
    assert items(await browser.get(service, "/api/v1/calls", user=someone())) == []


@pytest.mark.parametrize("path", ["transactions", "calls"])
@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=-1", "limit=1001", "limit=abc", "limit=1.5", "limit=", "limit=99999999999999999999",
        "limit=0000019999",
        "limit=000001" + "0" * 5000,
        "cursor=garbage", "cursor=%00", "cursor=%F0%9F%A6%8A", "cursor=bnVsbA", "cursor=W10", "cursor=e30",
        "cursor=" + "A" * 4000,
        "cursor=" + base64.urlsafe_b64encode(b"[" * 5000).decode(),
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
async def test_a_bad_page_is_refused(service: Service, browser: Browser, path: str, query: str) -> None:
    refused(await browser.get(service, f"/api/v1/{path}?{query}", user=someone()), 400, "invalid_payload")


async def test_a_cursor_of_another_list_or_of_another_user_gives_nothing_of_theirs(
    service: Service, browser: Browser
) -> None:
    one, other = someone(), someone()
    for tokens in (1, 2, 3):
        await browser.grant(service, one, tokens)
    cursor = (await browser.get(service, "/api/v1/transactions?limit=1", user=one)).json["nextCursor"]
    for path in ("transactions", "calls"):
        answer = await browser.get(service, f"/api/v1/{path}?cursor={cursor}", user=other)
        assert answer.status == 400 or items(answer) == []


@pytest.mark.parametrize("path", ["transactions", "calls"])
async def test_a_cursor_changed_by_hand_is_refused_or_gives_a_page(
    service: Service, browser: Browser, pair: Pairs, path: str
) -> None:
    two = await pair(service)
    for number in range(2):
        await two.caller.ask("call:cancel", {"callId": (await two.ring(f"r-{number}"))["id"]})
        await browser.grant(service, two.caller.user, 1)
    page = await browser.get(service, f"/api/v1/{path}?limit=1", user=two.caller.user)
    given = page.json["nextCursor"]
    parts = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    for place in range(len(parts)):
        for value in ("", "x", "2026-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "NaN", "1e999",
                      str(2**63), "-1", "a\0b", "\ud800", 5, None, [], {}, str(uuid4())):  # fmt: skip
            changed = json.dumps([*parts[:place], value, *parts[place + 1 :]]).encode()
            cursor = base64.urlsafe_b64encode(changed).decode().rstrip("=")
            answer = await browser.get(service, f"/api/v1/{path}?cursor={cursor}", user=two.caller.user)
            assert answer.status in {200, 400}, (value, answer.text)


# One call

CALL_FIELDS = {
    "id", "channel", "callerId", "calleeId", "status", "rateTokensPerPeriod", "periodSeconds", "startedAt",
    "paidThrough", "endedAt", "endReason", "periodsBilled", "tokensSpent",
}  # fmt: skip


async def test_a_call_is_told_to_its_two_and_is_not_there_for_others(
    service: Service, browser: Browser, pair: Pairs
) -> None:
    two = await pair(service)
    call_id = (await two.talk())["call"]["id"]
    for user in (two.caller.user, two.callee.user):
        answer = await browser.get(service, f"/api/v1/calls/{call_id}", user=user)
        call = answer.json["call"]
        assert set(call) == CALL_FIELDS
        assert (call["status"], call["periodsBilled"], call["tokensSpent"]) == ("active", 1, 10)
    admin = {"user": someone(), "claims": {"role": "admin"}}
    for stranger in ({"user": someone()}, admin):
        refused(await browser.get(service, f"/api/v1/calls/{call_id}", **stranger), 404, "not_found")
        refused(await browser.post(service, f"/api/v1/calls/{call_id}/end", **stranger), 404, "not_found")
    assert (await two.caller.ask("call:end", {"callId": call_id}))["call"]["status"] == "ended"


NO_CALLS = ["00000000-0000-0000-0000-000000000000", "x", "1", "%00", "%F0%9F%A6%8A", "a" * 3000, "null", "..%2Fbalance"]


@pytest.mark.parametrize("call_id", NO_CALLS, ids=range(len(NO_CALLS)))
async def test_a_call_that_is_not_there_is_404(service: Service, browser: Browser, call_id: str) -> None:
    refused(await browser.get(service, f"/api/v1/calls/{call_id}", user=someone()), 404, "not_found")
    refused(await browser.post(service, f"/api/v1/calls/{call_id}/end", user=someone()), 404, "not_found")


@pytest.mark.parametrize("by", ["caller", "callee"])
async def test_ending_a_call_by_http_is_the_same_as_by_socket(
    service: Service, browser: Browser, pair: Pairs, by: str
) -> None:
    two = await pair(service)
    call_id = (await two.talk())["call"]["id"]
    user = getattr(two, by).user
    ended = await browser.post(service, f"/api/v1/calls/{call_id}/end", user=user)
    assert ended.status == 200
    call = ended.json["call"]
    assert (call["status"], call["endReason"]) == ("ended", "hangup")
    for tab in (two.caller, two.callee):
        [told] = await eventually(lambda tab=tab: tab.told("call:ended"))
        assert told["call"] == call
    again = await browser.post(service, f"/api/v1/calls/{call_id}/end", user=user)
    assert (again.status, again.json["call"]) == (200, call)
    assert (await two.caller.ask("call:end", {"callId": call_id}))["call"] == call


async def test_ending_a_call_by_http_that_still_rings_is_the_same_as_by_socket(
    service: Service, browser: Browser, pair: Pairs
) -> None:
    by_http, by_socket = await pair(service), await pair(service)
    http_call, socket_call = (await by_http.ring())["id"], (await by_socket.ring())["id"]
    one = await browser.post(service, f"/api/v1/calls/{http_call}/end", user=by_http.caller.user)
    other = await by_socket.caller.ask("call:end", {"callId": socket_call})
    assert one.status == 200
    assert other["ok"]
    assert one.json["call"]["endReason"] == other["call"]["endReason"] == "cancelled"


# The rate


@pytest.mark.parametrize(
    "body",
    [
        {}, [], None, "x", 5, {"tokensPerPeriod": None}, {"tokensPerPeriod": "5"}, {"tokensPerPeriod": 1.5},
        {"tokensPerPeriod": True}, {"tokensPerPeriod": -1}, {"tokensPerPeriod": 2**63}, {"tokensPerPeriod": 10**400},
        {"tokensPerPeriod": 5, "other": 1}, {"tokensPerPeriod": {}}, {"tokensPerPeriod": [5]}, {"TokensPerPeriod": 5},
    ],
    ids=lambda body: repr(body)[:40],
)  # fmt: skip
async def test_a_bad_rate_is_refused(service: Service, browser: Browser, body: Any) -> None:
    refused(await browser.put(service, "/api/v1/me/rate", user=someone(), json=body), 400, "invalid_payload")


async def test_ones_rate_is_what_ones_calls_cost_and_is_frozen_when_a_call_starts(
    service: Service, browser: Browser, pair: Pairs
) -> None:
    two = await pair(service, tokens=200)
    set_rate = await browser.put(service, "/api/v1/me/rate", user=two.callee.user, json={"tokensPerPeriod": 25})
    assert set_rate.status == 200
    assert set_rate.json["tokensPerPeriod"] == 25
    ringing = await two.ring()
    assert ringing["rateTokensPerPeriod"] == 25
    await browser.put(service, "/api/v1/me/rate", user=two.callee.user, json={"tokensPerPeriod": 99})
    accepted = await two.answer(ringing["id"])
    assert (accepted["call"]["rateTokensPerPeriod"], accepted["call"]["tokensSpent"]) == (25, 25)
    assert await browser.balance(service, two.caller.user) == 175
    assert (await browser.get(service, "/api/v1/earnings", user=two.callee.user)).json["balance"] == 20
    await two.caller.ask("call:end", {"callId": ringing["id"]})
    assert (await two.ring("r-2"))["rateTokensPerPeriod"] == 99


# Errors


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere", "/api/v2/balance", "/api/v1/balance/"])
async def test_a_route_that_is_not_there_is_a_problem(service: Service, browser: Browser, path: str) -> None:
    refused(await browser.get(service, path, user=someone()), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/health"), ("DELETE", "/api/v1/balance"), ("GET", "/api/v1/admin/grants"),
    ],
)  # fmt: skip
async def test_a_method_a_route_does_not_have_is_a_problem_that_names_those_it_has(
    service: Service, browser: Browser, method: str, path: str
) -> None:
    answer = await browser.request(service, method, path, user=someone())
    refused(answer, 405)
    assert answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"tokensPerPeriod":NaN}', b'{"tokensPerPeriod":5}{', b"[" * 20_000, b"\0", b"5" * 5000],
    ids=range(8),
)
async def test_a_body_that_is_no_json_is_refused(service: Service, browser: Browser, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await browser.put(service, "/api/v1/me/rate", user=someone(), data=body, headers=headers)
    refused(answer, 400, "invalid_payload")


async def test_a_huge_body_is_refused(service: Service, browser: Browser) -> None:
    body = io.BytesIO(json.dumps({"tokensPerPeriod": 5, "padding": "x" * 3_000_000}).encode())
    headers = {"Content-Type": "application/json"}
    refused(await browser.put(service, "/api/v1/me/rate", user=someone(), data=body, headers=headers), 413)


async def test_an_error_does_not_repeat_what_was_sent(service: Service, browser: Browser) -> None:
    answer = await browser.put(service, "/api/v1/me/rate", user=someone(), json={"tokensPerPeriod": "c4n4ry"})
    assert "c4n4ry" not in answer.text


async def test_security_headers_are_on_every_answer(service: Service, browser: Browser) -> None:
    for path in ("/health", "/nowhere", "/api/v1/balance"):
        answer = await browser.get(service, path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# Documents

ROUTES = [
    ("get", "/health"), ("get", "/ready"), ("get", "/api/v1/balance"), ("get", "/api/v1/earnings"),
    ("get", "/api/v1/transactions"), ("get", "/api/v1/calls"), ("get", "/api/v1/calls/{callId}"),
    ("post", "/api/v1/calls/{callId}/end"), ("put", "/api/v1/me/rate"), ("post", "/api/v1/admin/grants"),
    ("post", "/api/csp-report"),
]  # fmt: skip


async def test_the_openapi_document_is_valid_and_has_every_route(service: Service, browser: Browser) -> None:
    document = (await browser.get(service, "/openapi.json")).json
    validate(document)
    for method, path in ROUTES:
        assert method in document["paths"][path], f"{method} {path}"


EVENTS_SENT = "call:start call:accept call:join call:decline call:cancel call:end call:renew balance:get"
EVENTS_HEARD = (
    "call:incoming call:accepted call:ended call:token balance:update earnings:update balance:low query:invalidate"
)


async def test_the_asyncapi_document_has_every_event(service: Service, browser: Browser) -> None:
    document = (await browser.get(service, "/asyncapi.json")).json
    assert document["asyncapi"].startswith("3.")
    text = json.dumps(document)
    for event in f"{EVENTS_SENT} {EVENTS_HEARD}".split():
        assert f'"{event}"' in text, event


# Origins


async def test_an_allowed_origin_may_read_and_write(service: Service, browser: Browser) -> None:
    asked = {"Origin": ALLOWED, "Access-Control-Request-Method": "PUT"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type,idempotency-key"
    preflight = await browser.request(service, "OPTIONS", "/api/v1/me/rate", headers=asked)
    assert preflight.status in {200, 204}
    assert preflight.headers["Access-Control-Allow-Origin"] == ALLOWED
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "idempotency-key"))
    answer = await browser.put(
        service, "/api/v1/me/rate", user=someone(), json={"tokensPerPeriod": 5}, headers={"Origin": ALLOWED}
    )
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED
    assert "Origin" in answer.headers["Vary"]


async def test_errors_can_be_read_by_an_allowed_origin_too(service: Service, browser: Browser) -> None:
    for path in ("/api/v1/balance", "/api/v1/nowhere"):
        answer = await browser.get(service, path, headers={"Origin": ALLOWED})
        assert answer.status in {401, 404}
        assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED


STRANGERS = [
    "https://evil.example", "null", "https://app.example.org.evil.example", "http://app.example.org",
    "https://app.example.org:444", "https://xapp.example.org", ALLOWED + "/",
]  # fmt: skip


@pytest.mark.parametrize("origin", STRANGERS)
async def test_another_origin_is_told_nothing(service: Service, browser: Browser, origin: str) -> None:
    user = someone()
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    preflight = await browser.request(service, "OPTIONS", "/api/v1/me/rate", headers=asked)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    answer = await browser.get(service, "/api/v1/balance", user=user, headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("origin", STRANGERS)
async def test_a_socket_from_another_origin_is_refused(
    service: Service, open_tab: Opens, origin: str, transport: str
) -> None:
    query = f"/socket.io/?EIO=4&transport={transport}"
    async with aiohttp.ClientSession(headers={"Origin": origin}) as session:
        if transport == "polling":
            async with session.get(service.url + query) as answer:
                assert 400 <= answer.status < 500
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(service.url + query)
            assert 400 <= refusal.value.status < 500


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("origin", [ALLOWED, "https://other.example.org", None, "the server's own"])
async def test_a_socket_from_an_allowed_origin_from_the_own_page_or_from_no_page_is_taken(
    service: Service, origin: str | None, transport: str
) -> None:
    query = f"/socket.io/?EIO=4&transport={transport}"
    headers = {} if origin is None else {"Origin": service.url if origin == "the server's own" else origin}
    async with aiohttp.ClientSession(headers=headers) as session:
        if transport == "polling":
            async with session.get(service.url + query) as answer:
                assert answer.status == 200
                assert (await answer.text()).startswith("0{")
                if origin == ALLOWED:
                    assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED
        else:
            async with session.ws_connect(service.url + query) as socket:
                assert (await socket.receive_str()).startswith("0{")
