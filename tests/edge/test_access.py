"""One line for each request worth one, under an id that is fit for a log."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import pytest

from tests.servers import Launch, Opens, Server, eventually, token_of


def lines_of(server: Server) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [line for line in lines if line["event"] == "request"]


async def test_errors_and_money_are_logged_by_route_and_nothing_else_of_them(
    launch: Launch, http: aiohttp.ClientSession
) -> None:
    server = launch()
    token = token_of("root", role="admin")
    secretive = {"Authorization": f"Bearer {token}", "Idempotency-Key": "key-1", "X-Request-Id": "from-the-proxy.1"}
    grant = {"userId": "ann", "tokens": 5, "reason": "not for the log"}
    await http.get(f"{server.url}/api/v1/balance?password=hunter2", headers=secretive)
    await http.post(f"{server.url}/api/v1/admin/grants?x=hunter2", json=grant, headers=secretive)
    await http.get(f"{server.url}/api/v1/calls/018f3c5e-0000-7000-8000-000000000000?x=hunter2", headers=secretive)
    await http.get(f"{server.url}/nowhere/hunter2")
    granted, stranger, nowhere = await eventually(lambda: found if len(found := lines_of(server)) == 3 else None)
    assert {name: granted[name] for name in ("method", "route", "status", "user_id", "request_id")} == {
        "method": "POST", "route": "/api/v1/admin/grants", "status": 200, "user_id": "root",
        "request_id": "from-the-proxy.1",
    }  # fmt: skip
    assert granted["ms"] > 0
    assert (stranger["route"], stranger["status"]) == ("/api/v1/calls/{callId}", 404)
    assert (nowhere["route"], nowhere["status"]) == ("unmatched", 404)
    assert "user_id" not in nowhere, "what the last request on the connection bound is not this one's"
    written = server.log.read_text()
    for secret in ("hunter2", token, "not for the log"):
        assert secret not in written


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", 'quote"', "ünïcode", "a;b"])
async def test_an_id_that_is_not_sane_is_replaced(server: Server, http: aiohttp.ClientSession, given: str) -> None:
    answer = await http.get(f"{server.url}/health", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["X-Request-Id"])


async def test_a_sane_one_is_kept(server: Server, http: aiohttp.ClientSession) -> None:
    answer = await http.get(f"{server.url}/health", headers={"X-Request-Id": "0af7651916cd43dd-8448eb21"})
    assert answer.headers["X-Request-Id"] == "0af7651916cd43dd-8448eb21"


async def test_what_a_socket_event_logs_carries_user_and_call(
    launch: Launch, http: aiohttp.ClientSession, open_tab: Opens
) -> None:
    server = launch()
    grant = {"userId": "ann", "tokens": 50, "reason": "a test"}
    await http.post(
        f"{server.url}/api/v1/admin/grants", json=grant,
        headers={"Authorization": f"Bearer {token_of('root', role='admin')}", "Idempotency-Key": "key"},
    )  # fmt: skip
    ann, bob = await open_tab(server, "ann"), await open_tab(server, "bob")
    started = await ann.ask("call:start", {"calleeId": "bob", "requestId": "r"})
    await eventually(lambda: bob.told("call:incoming"))
    await bob.ask("call:decline", {"callId": started["call"]["id"]})
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    [ended] = [line for line in lines if line["event"] == "call ended"]
    assert (ended["user_id"], ended["call_id"]) == ("bob", started["call"]["id"])
