"""What anybody may post to /api/csp-report, and what it does: a count and a line, whatever it contains."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from realtime.edge import csp_reports
from realtime.edge.csp_reports import AddressLimit
from realtime.services.operations import LastHour
from tests.servers import Launch, Server, eventually

OLD, NEW = "application/csp-report", "application/reports+json"


def old(**violation: Any) -> bytes:
    return json.dumps({"csp-report": violation}).encode()


def new(*violations: dict[str, Any]) -> bytes:
    return json.dumps([{"type": "csp-violation", "age": 1, "url": "x", "body": body} for body in violations]).encode()


async def post(http: aiohttp.ClientSession, server: Server, body: bytes, content_type: str) -> aiohttp.ClientResponse:
    return await http.post(f"{server.url}/api/csp-report", data=body, headers={"Content-Type": content_type})


async def counted(http: aiohttp.ClientSession, server: Server) -> dict[str, float]:
    text = await (await http.get(f"{server.url}/metrics")).text()
    lines = [line for line in text.splitlines() if line.startswith("callmeter_csp_reports_total{")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def lines_of(server: Server) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [line for line in lines if line["event"] == "csp violation"]


async def test_both_formats_are_taken_counted_and_logged(launch: Launch, http: aiohttp.ClientSession) -> None:
    server = launch()
    first = old(**{"violated-directive": "script-src-elem", "blocked-uri": "https://evil.example/x.js?token=secret"})
    assert (await post(http, server, first, OLD)).status == 204
    second = new(
        {"effectiveDirective": "img-src", "blockedURL": "inline", "disposition": "report", "lineNumber": 7},
        {"effectiveDirective": "style-src-attr", "documentURL": "https://user:pass@app.example/ops#fragment"},
    )
    assert (await post(http, server, second, NEW)).status == 204
    assert await counted(http, server) == {
        'callmeter_csp_reports_total{directive="script-src-elem",disposition="enforce"}': 1.0,
        'callmeter_csp_reports_total{directive="img-src",disposition="report"}': 1.0,
        'callmeter_csp_reports_total{directive="style-src-attr",disposition="enforce"}': 1.0,
    }
    lines = await eventually(lambda: found if len(found := lines_of(server)) == 3 else None)
    assert lines[0]["blocked"] == "https://evil.example/x.js", "without the query: it may hold a secret"
    assert (lines[1]["blocked"], lines[1]["line"]) == ("inline", 7)
    assert lines[2]["page"] == "https://app.example/ops"


async def test_other_kinds_of_reports_are_none_of_ours(server: Server, http: aiohttp.ClientSession) -> None:
    before = await counted(http, server)
    body = json.dumps([{"type": "deprecation", "body": {"id": "x"}}]).encode()
    assert (await post(http, server, body, NEW)).status == 204
    assert await counted(http, server) == before


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", OLD, 400),
        (b"{", OLD, 400),
        (b"[]", OLD, 400),
        (b'{"csp-report": []}', OLD, 400),
        (b"\xff\xfe", NEW, 400),
        (b"{}", NEW, 400),
        (b"[1]", NEW, 400),
        (b'[{"type": "csp-violation"}]', NEW, 400),
        (b'[{"type": {}, "body": {}}]', NEW, 400),
        (b"[" * 20_000, NEW, 400),
        (new(*[{}] * 51), NEW, 400),
        (b"{}", "application/json", 415),
        (old(x="x" * 40_000), OLD, 413),
    ],
)
async def test_what_is_no_report_is_refused_and_not_counted(
    server: Server, http: aiohttp.ClientSession, body: bytes, content_type: str, status: int
) -> None:
    before = await counted(http, server)
    answer = await post(http, server, body, content_type)
    assert answer.status == status, await answer.text()
    assert answer.content_type == "application/problem+json"
    assert await counted(http, server) == before


async def test_a_report_without_an_end_is_cut_off(server: Server, http: aiohttp.ClientSession) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1024

    answer = await http.post(f"{server.url}/api/csp-report", data=endless(), headers={"Content-Type": OLD})
    assert answer.status == 413


async def test_a_report_cannot_forge_a_log_line_or_a_metric(launch: Launch, http: aiohttp.ClientSession) -> None:
    server = launch()
    forged = 'x\n{"event": "tokens granted", "user": "eve"}\r\x1b[2J\u202e'
    body = old(
        **{"violated-directive": forged, "blocked-uri": forged, "document-uri": forged, "source-file": "a" * 9999}
    )
    assert (await post(http, server, body, OLD)).status == 204
    [line] = await eventually(lambda: lines_of(server))
    assert line["directive"] == "other"
    for name in ("blocked", "page"):
        assert line[name].isprintable()
    assert len(line["source"]) <= csp_reports.MAX_TEXT_CHARACTERS
    assert not [text for text in server.log.read_text().splitlines() if json.loads(text)["event"] == "tokens granted"]
    assert list(await counted(http, server)) == ['callmeter_csp_reports_total{directive="other",disposition="enforce"}']


async def test_values_of_any_type_are_survived(server: Server, http: aiohttp.ClientSession) -> None:
    for value in (None, 1, 1.5, True, [], {}, "http://[", "\ud800", -1, 2**70):
        body = new({"effectiveDirective": value, "blockedURL": value, "lineNumber": value, "disposition": value})
        assert (await post(http, server, body, NEW)).status == 204


async def test_an_address_that_floods_is_told_to_wait(launch: Launch, http: aiohttp.ClientSession) -> None:
    server = launch()
    answers = [await post(http, server, old(), OLD) for _ in range(csp_reports.REQUESTS_PER_MINUTE + 1)]
    assert {answer.status for answer in answers[:-1]} == {204}
    assert answers[-1].status == 429
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= csp_reports.WINDOW_S
    assert (await answers[-1].json())["code"] == "rate_limited"


def test_the_limit_is_each_addresss_own_and_passes_with_time() -> None:
    now = 0.0
    limit = AddressLimit(2, 60, clock=lambda: now)
    assert [limit.wait_s("a"), limit.wait_s("a"), limit.wait_s("a"), limit.wait_s("b")] == [0, 0, 60, 0]
    now = 59.0
    assert limit.wait_s("a") == 1
    now = 60.0
    assert limit.wait_s("a") == 0


def test_the_limit_remembers_no_more_addresses_than_it_should() -> None:
    limit = AddressLimit(1, 60, clock=lambda: 0.0)
    for number in range(csp_reports.ADDRESSES_KEPT + 10):
        limit.wait_s(f"address {number}")
    assert len(limit._times) == csp_reports.ADDRESSES_KEPT


def test_the_last_hour_forgets_by_the_minute() -> None:
    now = 30.0
    hour = LastHour(clock=lambda: now)
    hour.add()
    hour.add()
    now = 90.0
    hour.add()
    now = 3599.0
    assert hour.count() == 3
    now = 3600.0
    assert hour.count() == 1, "the first minute is over"
    now = 3660.0
    assert hour.count() == 0
