"""Traces from a request or a socket event through its SQL to the pushes, into an exporter that keeps them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from realtime.adapters.metrics import Metrics
from realtime.adapters.tracing import Tracing, add_trace_ids, described
from realtime.composition import Observers, build_core, servers
from realtime.config import Settings
from realtime.edge.authentication import Authenticator
from realtime.edge.identity import SharedSecret
from realtime.edge.sockets import Sockets
from realtime.fanout import FanoutServer, serve
from realtime.main import build_http
from realtime.services.sessions import Sessions
from tests.metering import grant
from tests.servers import JWT_SECRET, Launch, Opens, eventually, free_port, token_of


@dataclass
class Here:
    """A server in this process, as `open_tab` takes it."""

    url: str
    spans: Callable[[], list[ReadableSpan]]
    pool: Any


@pytest.fixture
async def here(database_url: str, redis_url: str) -> AsyncIterator[Here]:
    exporter = InMemorySpanExporter()
    tracing = Tracing.to(SimpleSpanProcessor(exporter), instance_id="here")
    settings = Settings(
        _env_file=None, database_url=database_url, redis_url=redis_url, jwt_secret=JWT_SECRET, port=free_port(),
        stripe_secret_key="sk_test_nobody", stripe_api_base="http://127.0.0.1:9",
    )  # fmt: skip
    async with _serving(settings, Observers(Metrics(), tracing)) as pool:
        yield Here(f"http://127.0.0.1:{settings.port}", lambda: list(exporter.get_finished_spans()), pool)
    tracing.shutdown()


@asynccontextmanager
async def _serving(settings: Settings, watched: Observers) -> AsyncIterator[Any]:
    assert settings.redis_url
    async with servers(settings, watched) as (db, redis_client, client):
        sio = FanoutServer(redis_url=settings.redis_url, allowed_origins="*", instance_id="here")
        core = build_core(settings, "here", sio, db, redis_client, client, watched)
        authenticator = Authenticator(SharedSecret(JWT_SECRET), Sessions(redis_client), secure_cookies=False)
        Sockets(
            sio, authenticator=authenticator, calls=core.calls, wallets=core.wallets, attendance=core.attendance,
            operations=core.operations, metrics=core.metrics, tracing=core.tracing,
        )  # fmt: skip
        app = build_http(core, authenticator, sio)
        await sio.start()
        try:
            async with serve(app, sio, host=settings.host, port=settings.port):
                await core.presence.beat()
                yield db.pool
        finally:
            await sio.stop()


def below(spans: list[ReadableSpan], root: ReadableSpan) -> Iterator[ReadableSpan]:
    for span in spans:
        if span.parent is not None and span.parent.span_id == root.context.span_id:
            yield span
            yield from below(spans, span)


async def test_a_request_leads_to_its_sql_and_its_pushes(here: Here, http: aiohttp.ClientSession) -> None:
    headers = {
        "Authorization": f"Bearer {token_of('ann')}",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    answer = await http.put(f"{here.url}/api/v1/me/rate?secret=1", json={"tokensPerPeriod": 4}, headers=headers)
    assert answer.status == 200
    spans = await eventually(lambda: found if (found := here.spans()) and found[-1].name.startswith("PUT") else None)
    [root] = [span for span in spans if span.name == "PUT /api/v1/me/rate"]
    assert format(root.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c", "within the client's own trace"
    assert root.attributes["http.response.status_code"] == 200
    found = list(below(spans, root))
    [statement] = [span for span in found if span.attributes.get("db.system.name") == "postgresql"]
    assert statement.name == "INSERT"
    assert "user_rates" in statement.attributes["db.query.text"]
    assert statement.end_time >= statement.start_time >= root.start_time - 10_000_000
    [push] = [span for span in found if span.name == "push"]
    assert push.attributes["callmeter.events"] == "query:invalidate"
    assert not [span for span in spans if "secret" in json.dumps(dict(span.attributes))]


async def test_a_socket_event_leads_to_its_sql_and_its_pushes(here: Here, open_tab: Opens) -> None:
    async with here.pool.acquire() as conn:
        await grant(conn, "ann", 50)
    ann, bob = await open_tab(here, "ann"), await open_tab(here, "bob")
    started = await ann.ask("call:start", {"calleeId": "bob", "requestId": "r"})
    assert started["ok"]
    await eventually(lambda: bob.told("call:incoming"))
    spans = here.spans()
    [root] = [span for span in spans if span.name == "socket call:start"]
    found = list(below(spans, root))
    inserted = [span for span in found if "INSERT INTO calls" in str(span.attributes.get("db.query.text"))]
    assert len(inserted) == 1
    assert inserted[0].attributes["db.query.summary"].startswith("Make a ringing call")
    [push] = [span for span in found if span.name == "push"]
    assert push.attributes["callmeter.events"] == "call:incoming,query:invalidate"
    assert all(span.resource.attributes["service.instance.id"] == "here" for span in spans)


async def test_a_statement_that_fails_is_marked(here: Here, http: aiohttp.ClientSession) -> None:
    async with here.pool.acquire() as conn:
        await conn.execute("ALTER TABLE user_rates RENAME TO user_rates_away")
    answer = await http.get(f"{here.url}/api/v1/me", headers={"Authorization": f"Bearer {token_of('ann')}"})
    assert answer.status == 500
    await eventually(lambda: "GET /api/v1/me" in [span.name for span in here.spans()])
    spans = here.spans()
    [statement] = [span for span in spans if span.name == "SELECT" and "user_rates" in span.attributes["db.query.text"]]
    assert statement.status.description == "UndefinedTableError"
    [root] = [span for span in spans if span.name == "GET /api/v1/me"]
    assert not root.status.is_ok


async def test_what_nobody_asked_for_makes_no_spans(here: Here) -> None:
    async with here.pool.acquire() as conn:
        await conn.fetchval("SELECT 1")
    assert here.spans() == []


def test_lines_written_within_a_span_carry_its_ids() -> None:
    tracing = Tracing.to(SimpleSpanProcessor(InMemorySpanExporter()), instance_id="here")
    with tracing.step("outer") as span:
        line = add_trace_ids(None, "info", {"event": "x"})
    assert line["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert line["span_id"] == format(span.get_span_context().span_id, "016x")
    assert add_trace_ids(None, "info", {"event": "x"}) == {"event": "x"}
    with Tracing.off().step("nothing"):
        assert add_trace_ids(None, "info", {"event": "x"}) == {"event": "x"}
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize(
    ("query", "keyword", "summary"),
    [
        ("-- The clock of metering.\nSELECT meter_now()", "SELECT", "The clock of metering."),
        ("BEGIN;", "BEGIN", "BEGIN;"),
        ("-- One.\n-- Two.\nWITH held AS (SELECT 1) SELECT 2", "WITH", "One."),
        ("", "SQL", ""),
    ],
)
def test_a_statement_is_named_by_its_keyword_and_the_comment_above_it(query: str, keyword: str, summary: str) -> None:
    assert described(query) == (keyword, summary)


@pytest.fixture
async def collector() -> AsyncIterator[tuple[str, list[bytes]]]:
    """What an OTLP collector is sent."""
    received: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        received.append(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    async with TestServer(app) as running:
        yield str(running.make_url("")).rstrip("/"), received


async def test_a_process_sends_its_spans_to_the_collector_it_is_told(
    launch: Launch, http: aiohttp.ClientSession, collector: tuple[str, list[bytes]]
) -> None:
    endpoint, received = collector
    server = launch(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    answer = await http.get(f"{server.url}/api/v1/me", headers={"Authorization": f"Bearer {token_of('ann')}"})
    assert answer.status == 200
    assert await asyncio.to_thread(server.stop) == 0
    sent = b"".join(received)
    assert b"GET /api/v1/me" in sent
    assert b"user_rates" in sent


async def test_a_collector_that_is_away_keeps_nothing_from_starting_answering_or_stopping(
    launch: Launch, http: aiohttp.ClientSession
) -> None:
    server = launch(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert (await http.get(f"{server.url}/ready")).status == 200
    assert await asyncio.to_thread(server.stop) == 0


async def test_errors_logged_within_a_request_name_its_trace(
    launch: Launch, http: aiohttp.ClientSession, db: asyncpg.Connection, collector: tuple[str, list[bytes]]
) -> None:
    server = launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector[0])
    await db.execute("ALTER TABLE user_rates RENAME TO user_rates_away")
    headers = {
        "Authorization": f"Bearer {token_of('ann')}",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    assert (await http.get(f"{server.url}/api/v1/me", headers=headers)).status == 500
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    failed = [line for line in lines if line["event"] in {"a request failed", "request"}]
    assert {line["trace_id"] for line in failed} == {"0af7651916cd43dd8448eb211c80319c"}
    assert {line["user_id"] for line in failed} == {"ann"}
    assert headers["Authorization"][7:] not in server.log.read_text(), "a traceback shows no values of variables"
