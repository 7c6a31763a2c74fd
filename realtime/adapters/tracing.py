"""Traces: from a request or socket event through its SQL to the pushes it caused. Off unless an endpoint is named.

Everything here goes through OpenTelemetry's API, whose spans cost next to nothing while no provider is installed, so
there is one code path. SQL statements are spans only within a recorded one: the meter's and the sweeps' own polling
would drown what anybody looks for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

TEXT_CHARACTERS = 2_000
EXPORT_TIMEOUT_S = 2.0
"""Retries included. A collector that is away costs its spans, not the time of a stop."""

_COMMENT = re.compile(r"^--\s*(.+)$", re.MULTILINE)
_KEYWORD = re.compile(r"^\s*([A-Za-z]+)", re.MULTILINE)

AttributeValue = str | int | float | bool


class Tracing:
    """Makes spans. `Tracing.off()` makes spans nobody records."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = (provider or trace.NoOpTracerProvider()).get_tracer("callmeter")

    @classmethod
    def off(cls) -> Tracing:
        return cls(None)

    @classmethod
    def to(cls, processor: SpanProcessor, *, instance_id: str) -> Tracing:
        resource = Resource.create({"service.name": "callmeter", "service.instance.id": instance_id})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(processor)
        return cls(provider)

    @classmethod
    def to_otlp(cls, endpoint: str, *, instance_id: str) -> Tracing:
        """Send to an OTLP collector over HTTP, in batches, from a thread of its own."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        return cls.to(BatchSpanProcessor(exporter), instance_id=instance_id)

    @property
    def on(self) -> bool:
        return self._provider is not None

    @contextmanager
    def request(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue]
    ) -> Iterator[Span]:
        """What a client asked for: the first span of a trace here, within the client's if it sent one along."""
        parent = extract({key.lower(): value for key, value in headers.items()}) if self.on else None
        with self._tracer.start_as_current_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=attributes, record_exception=False
        ) as span:
            yield span

    @contextmanager
    def step(
        self, name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Mapping[str, AttributeValue] | None = None
    ) -> Iterator[Span]:
        """A part of the work. Of an error that ends it only the kind is told: its message may quote what it met."""
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    async def watch_connection(self, conn: Any) -> None:
        """Have each statement of an asyncpg connection become a span: for the pool's `init`."""
        if self.on:
            conn.add_query_logger(self._statement)

    def _statement(self, record: Any) -> None:
        # asyncpg calls this from the event loop with the context the statement ran in.
        if not trace.get_current_span().is_recording():
            return
        end_ns = time.time_ns()
        keyword, summary = described(record.query)
        span = self._tracer.start_span(
            keyword,
            kind=SpanKind.CLIENT,
            start_time=end_ns - int(record.elapsed * 1e9),
            attributes={
                "db.system.name": "postgresql",
                "db.query.text": record.query[:TEXT_CHARACTERS],
                "db.query.summary": summary,
            },
        )
        if record.exception is not None:
            span.set_status(Status(StatusCode.ERROR, type(record.exception).__name__))
        span.end(end_ns)

    def shutdown(self) -> None:
        """Send what is waiting to be sent."""
        if self._provider is not None:
            self._provider.shutdown()


def described(query: str) -> tuple[str, str]:
    """A statement's first keyword, and the comment above it, or its first line where there is none."""
    comment = _COMMENT.match(query.lstrip())
    bare = _COMMENT.sub("", query)
    keyword = _KEYWORD.search(bare)
    first_line = bare.strip().splitlines()[0] if bare.strip() else ""
    return (keyword.group(1).upper() if keyword else "SQL"), (comment.group(1) if comment else first_line)[:200]


def add_trace_ids(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """A structlog processor: lines written within a span carry its ids."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


class TracedPushes:
    """Pushes within a span: how many, and of which kinds."""

    def __init__(self, out: Any, tracing: Tracing) -> None:
        self._out = out
        self._tracing = tracing

    async def emit_many(self, pushes: Iterable[tuple[str, str, Any]]) -> None:
        batch = list(pushes)
        if not batch:
            return
        kinds = ",".join(sorted({event for _, event, _ in batch}))
        attributes: dict[str, AttributeValue] = {"callmeter.pushes": len(batch), "callmeter.events": kinds}
        with self._tracing.step("push", SpanKind.PRODUCER, attributes):
            await self._out.emit_many(batch)
