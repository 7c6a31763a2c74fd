"""The two documents clients are generated from: OpenAPI 3.1 of the routes, AsyncAPI 3.0 of the socket events.

Both are made from the tables the server itself runs on, so that what is documented is what is mounted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from realtime.domain import errors
from realtime.edge.authentication import CSRF_HEADER, SAFE_METHODS, cookie_name
from realtime.edge.errors import HTTP_CODES, STATUS
from realtime.edge.events import SENT, SentEvent
from realtime.edge.routes import IDEMPOTENCY_KEY, MAX_KEY_LENGTH, Asked, Route, TakesKey, Who
from realtime.edge.sockets import EVENTS, SocketEvent
from realtime.edge.wire import MAX_PAGE

TITLE = "CallMeter"
VERSION = "1"
Schema = dict[str, Any]

PROBLEM = "application/problem+json"

QUERY: Mapping[str, Schema] = {
    "cursor": {
        "description": "A place in the listing, as `nextCursor` gave it.",
        "schema": {"type": "string", "minLength": 1},
    },
    "limit": {"description": "How many at most.", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}},
}
HEADERS: Mapping[str, Schema] = {
    IDEMPOTENCY_KEY: {
        "description": "Names this intent: a repetition is answered with the first one's answer. A UUID is a good one.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
    },
    "Stripe-Signature": {
        "description": "Stripe's signature over the raw body, not older than five minutes.",
        "schema": {"type": "string"},
        "required": True,
    },
}
PATH_PARAMETER: Schema = {"type": "string", "minLength": 1, "maxLength": 128}

_RATE_LIMIT = {
    "RateLimit": {"schema": {"type": "string"}, "description": "What is left in the window."},
    "RateLimit-Policy": {"schema": {"type": "string"}, "description": "The limit and its window."},
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
ANSWER_HEADERS: Mapping[int, Schema] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {**_RETRY_AFTER, **_RATE_LIMIT},
    503: _RETRY_AFTER,
}


def codes() -> list[str]:
    """Every `code` an HTTP answer can carry."""
    return sorted({refused.code for refused in STATUS} | set(HTTP_CODES.values()) | {"http_error", "internal_error"})


def _subclasses(family: type[errors.Refused]) -> Iterator[type[errors.Refused]]:
    for member in family.__subclasses__():
        yield member
        yield from _subclasses(member)


def socket_codes() -> list[str]:
    """Every `code` a socket's acknowledgement can carry: the refusals that are not about HTTP alone."""
    http_only = {"csrf_token_invalid", "payload_too_large", "unsupported_media_type", "daily_limit_exceeded"}
    named = {refused.code for refused in _subclasses(errors.Refused)}
    return sorted(code for code in named - http_only if not code.startswith("idempotency_"))


def openapi(routes: Sequence[Route], *, secure_cookies: bool) -> Schema:
    models = {model for route in routes for model in _models_of(route)}
    schemas = _schemas(models) | {"Problem": _problem()}
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE,
            "version": VERSION,
            "description": (
                "Pay-per-minute video calls: wallets, calls, payments. Errors are RFC 9457 problem documents whose "
                "`code` is stable. Live updates come over Socket.IO: see /asyncapi.json."
            ),
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie_name(secure=secure_cookies)},
                "csrf": {"type": "apiKey", "in": "header", "name": CSRF_HEADER},
            },
        },
    }


def _models_of(route: Route) -> Iterator[type[BaseModel]]:
    yield from (model for model in (route.payload, route.answer) if model is not None)
    yield from route.also.values()


def _schemas(models: Iterable[type[BaseModel]]) -> dict[str, Schema]:
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Schema] = definitions.get("$defs", {})
    return found


def _ref(model: type[BaseModel]) -> Schema:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _problem() -> Schema:
    return {
        "type": "object",
        "title": "Problem",
        "description": "An RFC 9457 problem. Some codes carry more members, such as `retryAfter` in seconds.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": codes()},
            "detail": {"type": "string"},
            "retryAfter": {"type": "integer", "description": "Seconds, with `rate_limited`."},
            "limitCents": {"type": "integer", "description": "With `daily_limit_exceeded`."},
            "spentCents": {"type": "integer", "description": "With `daily_limit_exceeded`."},
            "resetsAt": {"type": "string", "description": "With `daily_limit_exceeded`."},
        },
    }


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [_tag(route.path)],
        "x-who": str(route.who),
        "responses": _responses(route),
    }
    if security := _security(route):
        operation["security"] = security
    if parameters := [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)]:
        operation["parameters"] = parameters
    if route.payload is not None:
        content: Schema = {"application/json": {"schema": _ref(route.payload)}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.reads:
        content = {media_type: {"schema": dict(schema)} for media_type, schema in route.reads.items()}
        operation["requestBody"] = {"required": True, "content": content}
    if "Deprecation" in route.always:
        operation["deprecated"] = True
    return operation


def _operation_id(route: Route) -> str:
    words = [word for word in re.split(r"[^A-Za-z0-9]+", route.path) if word]
    return route.method.lower() + "".join(word[0].upper() + word[1:] for word in words)


def _tag(path: str) -> str:
    words = [word for word in path.split("/") if word and word not in {"api", "v1"}]
    return words[0].split(".")[0] if words else "page"


def _security(route: Route) -> list[Schema]:
    session: Schema = {"session": []} if route.method in SAFE_METHODS else {"session": [], "csrf": []}
    by_who: Mapping[Who, list[Schema]] = {
        Who.ANYONE: [],
        Who.USER: [{"bearer": []}, session],
        Who.ADMIN: [{"bearer": []}, session],
        Who.BEARER: [{"bearer": []}],
        Who.SESSION: [session],
    }
    return by_who[route.who]


def _path_parameters(route: Route) -> list[Schema]:
    names = re.findall(r"{(\w+)}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": PATH_PARAMETER} for name in names]


def _query_parameters(route: Route) -> list[Schema]:
    return [{"name": name, "in": "query", **QUERY[name]} for name in route.query]


def _header_parameters(route: Route) -> list[Schema]:
    found = [{"name": name, "in": "header", **HEADERS[name]} for name in route.headers]
    if route.takes_key is not TakesKey.NO:
        required = route.takes_key is TakesKey.MUST
        found.append({"name": IDEMPOTENCY_KEY, "in": "header", **HEADERS[IDEMPOTENCY_KEY], "required": required})
    return found


def _responses(route: Route) -> Schema:
    answered: Schema = {"description": HTTPStatus(route.status).phrase}
    if route.answer is not None:
        answered["content"] = {route.gives: {"schema": _ref(route.answer)}}
    elif route.gives != "application/json":
        answered["content"] = {route.gives: {"schema": {"type": "string"}}}
    responses: Schema = {str(int(route.status)): answered}
    for status, model in route.also.items():
        responses[str(int(status))] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": _ref(model)}},
        }
    for status in sorted(_refusals(route) - {int(key) for key in responses}):
        responses[str(status)] = _refusal(status)
    responses["default"] = {"description": "Any other error", "content": {PROBLEM: {"schema": _problem_ref()}}}
    return responses


def _problem_ref() -> Schema:
    return {"$ref": "#/components/schemas/Problem"}


def _refusal(status: int) -> Schema:
    refusal: Schema = {"description": HTTPStatus(status).phrase, "content": {PROBLEM: {"schema": _problem_ref()}}}
    if status in ANSWER_HEADERS:
        refusal["headers"] = ANSWER_HEADERS[status]
    return refusal


def _refusals(route: Route) -> set[int]:
    found = {int(status) for status in route.statuses}
    if route.payload is not None:
        found |= {400, 413}
    if route.query:
        found |= {400}
    if "{" in route.path:
        found |= {404}
    if route.who is not Who.ANYONE:
        found |= {401, 503}
        if route.who is Who.ADMIN or (route.who is not Who.BEARER and route.method not in SAFE_METHODS):
            found |= {403}
    if route.takes_key is not TakesKey.NO:
        found |= {400, 409, 422}
    return found


# -- AsyncAPI ----------------------------------------------------------------------------------------------------------


def asyncapi() -> Schema:
    models: set[type[BaseModel]] = {event.payload for event in SENT.values()}
    for event in EVENTS.values():
        models |= {event.payload, event.answer}
    messages = {name: _message(name, event) for name, event in EVENTS.items()}
    messages |= {name: _message(name, event) for name, event in SENT.items()}
    messages |= {_ack_name(name): _ack_message(name, event) for name, event in EVENTS.items()}
    operations = {name: _received(name, event) for name, event in EVENTS.items()}
    operations |= {name: _sent(name, event) for name, event in SENT.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": TITLE,
            "version": VERSION,
            "description": (
                "Socket.IO v5 over Engine.IO v4 at /socket.io/, namespace `/`; the handshake carries `auth: {token}` "
                "or the session cookie. Every event a client sends is acknowledged with `{ok: true, …}` or "
                "`{ok: false, error}`."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": "/",
                "description": "The one namespace.",
                "messages": {name: {"$ref": f"#/components/messages/{_escaped(name)}"} for name in sorted(messages)},
            }
        },
        "operations": dict(sorted((_operation_key(name), operation) for name, operation in operations.items())),
        "components": {
            "messages": dict(sorted(messages.items())),
            "schemas": dict(sorted((_schemas(models) | {"Refused": _refused_schema()}).items())),
        },
    }


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _operation_key(name: str) -> str:
    return name.replace(":", "-")


def _ack_name(name: str) -> str:
    return f"{name}.ack"


def _message(name: str, event: SocketEvent | SentEvent) -> Schema:
    return {"name": name, "summary": event.summary, "payload": _ref(event.payload)}


def _ack_message(name: str, event: SocketEvent) -> Schema:
    return {
        "name": _ack_name(name),
        "summary": f"The acknowledgement of {name}.",
        "payload": {"oneOf": [_ref(event.answer), {"$ref": "#/components/schemas/Refused"}]},
    }


def _channel_message(name: str) -> Schema:
    return {"$ref": f"#/channels/events/messages/{_escaped(name)}"}


def _received(name: str, event: SocketEvent) -> Schema:
    return {
        "action": "receive",
        "summary": event.summary,
        "channel": {"$ref": "#/channels/events"},
        "messages": [_channel_message(name)],
        "reply": {"channel": {"$ref": "#/channels/events"}, "messages": [_channel_message(_ack_name(name))]},
    }


def _sent(name: str, event: SentEvent) -> Schema:
    return {
        "action": "send",
        "summary": event.summary,
        "description": f"To {event.to}.",
        "channel": {"$ref": "#/channels/events"},
        "messages": [_channel_message(name)],
    }


def _refused_schema() -> Schema:
    return {
        "type": "object",
        "title": "Refused",
        "required": ["ok", "error"],
        "properties": {
            "ok": {"const": False, "type": "boolean"},
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "string", "enum": socket_codes()},
                    "message": {"type": "string"},
                    "retryAfter": {"type": "integer", "description": "Seconds, with `rate_limited`."},
                },
            },
        },
    }


# -- served ------------------------------------------------------------------------------------------------------------


def document_routes(routes: Sequence[Route], *, secure_cookies: bool) -> list[Route]:
    """The rows that serve the documents, which document themselves as well."""
    texts: dict[str, str] = {}

    def serve(path: str) -> Any:
        async def document(_asked: Asked) -> web.Response:
            return web.Response(text=texts[path], content_type="application/json")

        return document

    rows = [
        Route("GET", "/openapi.json", Who.ANYONE, serve("/openapi.json"), "This document."),
        Route("GET", "/asyncapi.json", Who.ANYONE, serve("/asyncapi.json"), "The socket events, as AsyncAPI 3.0."),
    ]
    texts["/openapi.json"] = text_of(openapi([*routes, *rows], secure_cookies=secure_cookies))
    texts["/asyncapi.json"] = text_of(asyncapi())
    return rows


def text_of(document: Schema) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
