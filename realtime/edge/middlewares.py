"""What every HTTP request passes through: CORS, errors to problem+json, and the headers browsers are told to obey."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from realtime.config import Settings
from realtime.edge.errors import http_answer

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, X-CSRF-Token"
EXPOSED_HEADERS = "Idempotency-Replayed, Retry-After, RateLimit, RateLimit-Policy, Deprecation, Link, X-Request-Id"


def middlewares(settings: Settings) -> list[Any]:
    """Outermost first."""
    return [_cors(settings.allowed_origins), errors]


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        return http_answer(error, request)


def _cors(allowed_origins: tuple[str, ...]) -> Any:
    """Answers preflights and names the origin, if it is one of ours. Cookies are not for other origins."""

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        known = origin is not None and ("*" in allowed_origins or origin in allowed_origins)
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers and known:
            answer: web.StreamResponse = web.Response(status=204)
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "GET, POST, PUT, DELETE"
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ALLOWED_HEADERS
            answer.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = "600"
        else:
            answer = await handler(request)
        if known and not request.path.startswith("/socket.io/") and not answer.prepared:
            assert origin is not None
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            answer.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS
            if "*" not in allowed_origins:
                answer.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            answer.headers.add(hdrs.VARY, hdrs.ORIGIN)
        return answer

    return cors
