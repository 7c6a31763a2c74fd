"""The one table from what can go wrong to what the wire says: HTTP problem+json (RFC 9457) and socket answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from redis.exceptions import RedisError

from realtime.adapters.postgres import UNREACHABLE
from realtime.domain import errors

log = structlog.get_logger()

STATUS: Mapping[type[errors.Refused], HTTPStatus] = {
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.CsrfRefused: HTTPStatus.FORBIDDEN,
    errors.OriginRefused: HTTPStatus.FORBIDDEN,
    errors.InvalidPayload: HTTPStatus.BAD_REQUEST,
    errors.PayloadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.CalleeUnavailable: HTTPStatus.CONFLICT,
    errors.Busy: HTTPStatus.CONFLICT,
    errors.InsufficientFunds: HTTPStatus.PAYMENT_REQUIRED,
    errors.CallAlreadyAnswered: HTTPStatus.CONFLICT,
    errors.CallNotAnswered: HTTPStatus.CONFLICT,
    errors.CallEnded: HTTPStatus.CONFLICT,
    errors.SelfCall: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.LimiterUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.IdempotencyKeyMissing: HTTPStatus.BAD_REQUEST,
    errors.IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.IdempotencyInProgress: HTTPStatus.CONFLICT,
    errors.DailyLimitExceeded: HTTPStatus.FORBIDDEN,
    errors.PaymentDeclined: HTTPStatus.PAYMENT_REQUIRED,
    errors.PaymentMethodInvalid: HTTPStatus.BAD_REQUEST,
    errors.PaymentsUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotRefundable: HTTPStatus.CONFLICT,
    errors.RefundRefused: HTTPStatus.CONFLICT,
    errors.SignatureInvalid: HTTPStatus.BAD_REQUEST,
}

CODE = web.ResponseKey("code", str)

HTTP_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "payload_too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
}


def as_refused(error: BaseException) -> errors.Refused | None:
    """A server that cannot be reached is a named refusal too; anything else unknown is our own fault."""
    if isinstance(error, errors.Refused):
        return error
    if isinstance(error, RedisError):
        return errors.Unavailable("Redis cannot be reached at the moment")
    if isinstance(error, UNREACHABLE):
        return errors.Unavailable("the database cannot be reached at the moment")
    return None


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] = {}, **members: Any) -> web.Response:
    """A problem's body, as RFC 9457 has it. The answer carries its `code` for the request's log line."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "code": code}
    answer = web.Response(
        status=status,
        text=json.dumps(body | {"detail": detail} | members),
        content_type="application/problem+json",
        headers=headers,
    )
    answer[CODE] = code
    return answer


def http_answer(error: BaseException, request: web.Request | None = None) -> web.Response:
    """What an HTTP client is told of `error`, met while `request` was handled."""
    if request is not None and error is request.content.exception():  # cut off, or not compressed as its headers say
        error = errors.InvalidPayload("the body cannot be read to its end")
    if isinstance(error, web.HTTPException):
        code = HTTP_CODES.get(HTTPStatus(error.status), "http_error")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return problem(error.status, code, error.reason, headers)
    refused = as_refused(error)
    if refused is None:
        log.error("a request failed", exc_info=error)
        return problem(500, "internal_error", "something went wrong on our side; trying again may help")
    headers = {}
    if isinstance(refused, errors.RateLimited):
        headers = rate_limit_headers(refused.policy, refused.limit, refused.window_s, 0, refused.retry_after_s)
        headers["Retry-After"] = str(refused.retry_after_s)
    elif refused.retryable and STATUS[type(refused)] is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "2"
    elif isinstance(refused, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(STATUS[type(refused)], refused.code, refused.message, headers, **refused.details)


def socket_answer(error: BaseException) -> dict[str, Any]:
    """What a socket's acknowledgement says of `error`."""
    refused = as_refused(error)
    if refused is None:
        log.error("a socket event failed", exc_info=error)
        refused = errors.Unavailable("something went wrong on our side; trying again may help")
    return {"ok": False, "error": {"code": refused.code, "message": refused.message, **refused.details}}


def rate_limit_headers(policy: str, limit: int, window_s: int, remaining: int, reset_s: int) -> dict[str, str]:
    """The two headers of the IETF draft on RateLimit header fields, as structured fields."""
    return {
        "RateLimit-Policy": f'"{policy}";q={limit};w={window_s}',
        "RateLimit": f'"{policy}";r={remaining};t={reset_s}',
    }
