"""Around every HTTP request: its id, its one log line, its measurement and its span.

Requests are named by the route's template, so that neither logs nor metrics nor traces carry identifiers, and never by
their query string, headers or body, which may hold what must not be kept.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from opentelemetry.trace import Status, StatusCode

from realtime.adapters.metrics import Metrics
from realtime.adapters.tracing import Tracing
from realtime.edge.errors import CODE

log = structlog.get_logger()

REQUEST_ID = "X-Request-Id"
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
MONEY = ("/payments/", "/admin/", "/webhooks/")
SOCKETS = "/socket.io/"


def note_user(user_id: str) -> None:
    """It is known now who sent this: for the request's line and every other written on its behalf."""
    structlog.contextvars.bind_contextvars(user_id=user_id)


def request_id_of(request: web.Request) -> str:
    """The id a proxy or client gave the request, if it is fit for a log; else a new one."""
    given = request.headers.get(REQUEST_ID, "")
    return given if SANE_ID.fullmatch(given) else secrets.token_hex(12)


def route_of(request: web.Request, status: int) -> str:
    """The template the request's path fits, or which kind of path it is."""
    resource = request.match_info.route.resource
    if resource is not None:
        return resource.canonical
    return "unmatched" if status >= 400 else "page"


def access(metrics: Metrics, tracing: Tracing) -> Any:
    @web.middleware
    async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == SOCKETS:  # lasts as long as a tab is open, and is measured by its events
            return await handler(request)
        # One connection's requests share a context: what the last one bound is not this one's.
        structlog.contextvars.clear_contextvars()
        request_id = request_id_of(request)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        method = request.method if request.method in METHODS else "other"
        started = time.perf_counter()
        template = route_of(request, 200)
        with tracing.request(
            f"{method} {template}", request.headers, {"http.request.method": method, "http.route": template}
        ) as span:
            answer = await handler(request)
            span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            if not answer.prepared:
                answer.headers[REQUEST_ID] = request_id
            seconds = time.perf_counter() - started
            route = route_of(request, answer.status)
            metrics.http_request(method, route, answer.status, seconds)
            worth_it = answer.status >= 400 or (method not in {hdrs.METH_GET, hdrs.METH_HEAD} and _moves_money(route))
            (log.info if worth_it else log.debug)(
                "request",
                method=method,
                route=route,
                status=answer.status,
                ms=round(seconds * 1000, 1),
                **({"code": answer[CODE]} if CODE in answer else {}),
            )
        return answer

    return observed


def _moves_money(route: str) -> bool:
    return any(part in route for part in MONEY)
