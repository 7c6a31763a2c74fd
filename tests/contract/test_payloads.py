"""Section 5: what a client may send. Whatever it is, it is answered, and the socket and the server stay up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.service import Serve, Service, someone
from tests.servers import Opens, Tab, eventually


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve(RATE_LIMIT_TRUST_LEVELS='{"basic":1000,"verified":1000,"trusted":1000,"vip":1000}') as service:
        yield service


@pytest.fixture(autouse=True)
def nothing_unexpected_is_logged(service: Service) -> Iterator[None]:
    before = len(service.server.log.read_text(errors="replace"))
    yield
    said = service.server.log.read_text(errors="replace")[before:]
    assert "Traceback" not in said, said
    assert '"level": "error"' not in said, said


OF_A_CALL = ["call:accept", "call:join", "call:decline", "call:cancel", "call:end", "call:renew"]
GOOD: dict[str, dict[str, Any]] = {
    "call:start": {"calleeId": "bob", "requestId": "r"},
    **{event: {"callId": "00000000-0000-0000-0000-000000000000"} for event in OF_A_CALL},
    "balance:get": {},
}
HUGE = "x" * 50_000
NOT_OBJECTS: list[Any] = [
    "text", "", 0, 1, -1, 1.5, True, False, [], [{}], ["callId"], HUGE, b"", b"bytes", [b"bytes"], None, 2**70,
]  # fmt: skip
NOT_TEXT: list[Any] = [None, 0, 1, 1.5, True, [], ["x"], {}, {"x": 1}, b"x", 2**70]
NOT_IDS: list[Any] = ["", HUGE, "a\0b", "\ud800", *NOT_TEXT]


def bad_payloads(event: str) -> list[Any]:
    good = GOOD[event]
    bad: list[Any] = [*NOT_OBJECTS]
    bad += [good | {"unknown": 1}, good | {"__proto__": {}}, good | {"": ""}, good | {HUGE: 1}]
    for field in good:
        bad.append({name: value for name, value in good.items() if name != field})
        bad += [good | {field: value} for value in NOT_IDS]
        bad.append({name.upper(): value for name, value in good.items()})
    if event == "call:start":
        bad += [good | {field: "x" * 129} for field in good]
    return bad


async def ask(tab: Tab, event: str, *arguments: Any) -> Any:
    return await tab.client.call(event, arguments, timeout=30)


@pytest.mark.parametrize("event", GOOD)
async def test_a_payload_of_another_shape_is_invalid_and_the_socket_stays_up(
    service: Service, open_tab: Opens, event: str
) -> None:
    tab = await open_tab(service.server, someone())
    sid = tab.sid
    unlike = []
    for payload in bad_payloads(event):
        answer = await ask(tab, event, payload)
        if answer.get("ok") is not False or answer["error"]["code"] != "invalid_payload":
            unlike.append((repr(payload)[:80], answer))
        assert set(answer) == {"ok", "error"}
        assert set(answer["error"]) >= {"code", "message"}
        assert HUGE not in answer["error"]["message"]
    assert unlike == []
    assert (tab.client.connected, tab.sid) == (True, sid)


@pytest.mark.parametrize("event", GOOD)
async def test_several_arguments_are_invalid(service: Service, open_tab: Opens, event: str) -> None:
    tab = await open_tab(service.server, someone())
    for arguments in ([GOOD[event], GOOD[event]], [GOOD[event], 1, 2, 3], [{}, None], [1] * 500):
        answer = await ask(tab, event, *arguments)
        assert answer["error"]["code"] == "invalid_payload", arguments
    assert (await tab.ask("balance:get"))["ok"]


@pytest.mark.parametrize("event", GOOD)
async def test_an_event_that_asks_for_no_acknowledgement_is_none_the_worse(
    service: Service, open_tab: Opens, event: str
) -> None:
    tab = await open_tab(service.server, someone())
    for payload in (GOOD[event], [], None, "x", b"x", {"unknown": 1}):
        await tab.client.emit(event, (payload,))
    await tab.client.emit(event)
    assert (await tab.ask("balance:get"))["ok"]


@pytest.mark.parametrize("event", OF_A_CALL)
async def test_a_call_id_nobody_gave_is_not_found(service: Service, open_tab: Opens, event: str) -> None:
    tab = await open_tab(service.server, someone())
    for call_id in (str(uuid4()), str(uuid4()).upper(), "0" * 36, "nope", "🦊", "'; DROP TABLE calls; --"):
        answer = await tab.ask(event, {"callId": call_id})
        assert answer["error"]["code"] in {"not_found", "invalid_payload"}, call_id
    assert (await tab.ask(event, {"callId": str(uuid4())}))["error"]["code"] == "not_found"


async def test_an_event_nobody_knows_does_no_harm(service: Service, open_tab: Opens) -> None:
    tab = await open_tab(service.server, someone())
    await eventually(lambda: tab.told("balance:update"))
    for name in ("nonsense", "call:nonsense", "", "*", "message", "__proto__", "call:start ", "x" * 10_000, "🦊"):
        await tab.client.emit(name, {"callId": "x"})
    # What the server says itself is not a client's to say.
    for name in ("balance:update", "call:incoming", "call:accepted", "query:invalidate", "auth:expired"):
        await tab.client.emit(name, {"balance": 10**9, "version": 99})
    assert await tab.ask("balance:get") == {"ok": True, "balance": 0, "version": 0}
    assert [update["reason"] for update in tab.told("balance:update")] == ["snapshot"]


@pytest.mark.parametrize("characters", [129, 10_000, 100_000, 900_000])
async def test_a_huge_text_is_refused_and_the_socket_stays_up(
    service: Service, open_tab: Opens, characters: int
) -> None:
    tab = await open_tab(service.server, someone())
    for payload in ({"calleeId": "x" * characters, "requestId": "r"}, {"calleeId": "y", "requestId": "x" * characters}):
        assert (await tab.ask("call:start", payload))["error"]["code"] == "invalid_payload"
    assert (await tab.ask("balance:get"))["ok"]


async def test_many_events_at_once_are_each_answered(service: Service, open_tab: Opens) -> None:
    tab = await open_tab(service.server, someone())
    answers = await asyncio.gather(*(tab.ask("balance:get") for _ in range(50)))
    assert all(answer["ok"] for answer in answers)
