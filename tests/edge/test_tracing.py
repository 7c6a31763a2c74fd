"""Traces from a request or a socket event through its SQL to the pushes, into an exporter that keeps them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import structlog
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
from tests.servers import JWT_SECRET, Opens, eventually, free_port, token_of


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
        _env_file=None, database_url=database_url, redis_url=redis_url, jwt_secret=JWT_SECRET, port=free_port()
    )
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
    spans = await eventually(lambda: found if len(found := here.spans()) >= 2 else None)
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
