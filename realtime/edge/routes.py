"""The HTTP routes as one table, and what every request passes through: parse, call, answer.

A route names its method and path, who may call it, the payload it takes and the one it answers; the application, the
authorization and the OpenAPI document are all made from these rows.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from realtime.domain.errors import IdempotencyKeyMissing, InvalidPayload, PayloadTooLarge
from realtime.domain.trust import Identity
from realtime.edge import wire
from realtime.edge.access import note_user
from realtime.edge.authentication import Authenticator
from realtime.edge.errors import http_answer

MAX_BODY_BYTES = 64 * 1024


class TakesKey(StrEnum):
    """Whether a route takes an Idempotency-Key."""

    NO = "no"
    MAY = "may"
    MUST = "must"


class Who(StrEnum):
    ANYONE = "anyone"
    USER = "user"
    """Whoever has a token, or a session and, for unsafe methods, its CSRF token."""
    ADMIN = "admin"
    """A user with the role admin."""
    BEARER = "bearer"
    """Whoever has a token; a session does not do."""
    SESSION = "session"
    """Whoever has a session; a token does not do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer, or none."""

    body: Any = None
    status: int = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> web.Response:
        headers = dict(self.headers)
        if self.body is None:
            return web.Response(status=self.status, headers=headers)
        return web.Response(
            status=self.status, text=json.dumps(self.body), content_type="application/json", headers=headers
        )


@dataclass(slots=True)
class Asked:
    """One request, once it is known who asks and that the payload has the documented shape."""

    request: web.Request
    caller: Identity
    payload: Any
    key: str | None = None
    """The Idempotency-Key, on routes that take one."""

    @property
    def path(self) -> dict[str, str]:
        return dict(self.request.match_info)

    @property
    def query(self) -> dict[str, str]:
        return dict(self.request.query)


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    who: Who
    handle: Callable[[Asked], Awaitable[Answer | web.StreamResponse]]
    summary: str
    payload: type[wire.Payload] | None = None
    answer: type[BaseModel] | None = None
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    takes_key: TakesKey = TakesKey.NO
    always: Mapping[str, str] = field(default_factory=dict)
    """Headers of every answer, refusals included."""
    statuses: tuple[int, ...] = ()
    """What it may answer besides `status` and the refusals every route of its kind has."""
    status: int = HTTPStatus.OK
    """What it answers when all is well, with a body like `answer`."""
    also: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    """Other statuses that are no refusals, and their bodies."""
    reads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Media types and JSON schemas of a body the handler reads itself."""
    gives: str = "application/json"
    """The media type of the answer."""


ANONYMOUS: Any = None
IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY_LENGTH = 255


def idempotency_key(request: web.Request) -> str | None:
    """The request's key, if it has one. Raises InvalidPayload for one that is not printable ASCII, or too long."""
    key = request.headers.get(IDEMPOTENCY_KEY, "").strip()
    if len(key) > MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise InvalidPayload(f"{IDEMPOTENCY_KEY}: is 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    return key or None


async def json_body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        raise PayloadTooLarge from None
    except (ValueError, RecursionError):
        raise InvalidPayload("the body is not JSON") from None


def mount(app: web.Application, routes: Sequence[Route], authenticator: Authenticator) -> None:
    for route in routes:
        endpoint = _endpoint(route, authenticator)
        if route.method == "GET":
            app.router.add_get(route.path, endpoint, allow_head=True)
        else:
            app.router.add_route(route.method, route.path, endpoint)


def _endpoint(route: Route, authenticator: Authenticator) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    identify = {
        Who.USER: authenticator.of_request,
        Who.ADMIN: authenticator.of_admin,
        Who.BEARER: authenticator.of_bearer,
        Who.SESSION: authenticator.of_session,
    }.get(route.who)

    async def answered(request: web.Request) -> web.StreamResponse:
        caller = ANONYMOUS
        if identify:
            caller = await identify(request)
            note_user(caller.user_id)
        key = None if route.takes_key is TakesKey.NO else idempotency_key(request)
        if key is None and route.takes_key is TakesKey.MUST:
            raise IdempotencyKeyMissing
        payload = wire.parse(route.payload, await json_body(request)) if route.payload else None
        answer = await route.handle(Asked(request, caller, payload, key))
        return answer.response() if isinstance(answer, Answer) else answer

    async def endpoint(request: web.Request) -> web.StreamResponse:
        try:
            answer = await answered(request)
        except Exception as error:
            answer = http_answer(error, request)
        answer.headers.update(route.always)
        return answer

    return endpoint if route.always else answered
