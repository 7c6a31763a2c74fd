"""What browsers report of pages that broke their policy: counted, logged, and nothing more.

Anybody may send one, so a report is held to a size and each address to a number a minute (kept here, not in Redis: the
reports must not need it), its texts are cut and stripped of control characters and of what URLs carry besides an
address, and what a metric is labelled with comes from a list of our own.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import structlog
from aiohttp import web

from realtime.domain.addresses import Networks, client_address
from realtime.domain.errors import InvalidPayload, PayloadTooLarge, RateLimited, UnsupportedMediaType
from realtime.edge.routes import Answer, Asked, Route, Who

log = structlog.get_logger()

PATH = "/api/csp-report"
MAX_REPORT_BYTES = 32 * 1024
MAX_REPORTS_A_BODY = 50
MAX_TEXT_CHARACTERS = 200

REQUESTS_PER_MINUTE = 60
WINDOW_S = 60
ADDRESSES_KEPT = 10_000
LINES_PER_MINUTE = 100
"""A page broken for everybody is counted in full and logged in part."""

DIRECTIVES = frozenset(
    {
        "base-uri", "child-src", "connect-src", "default-src", "font-src", "form-action", "frame-ancestors",
        "frame-src", "img-src", "manifest-src", "media-src", "object-src", "script-src", "script-src-attr",
        "script-src-elem", "style-src", "style-src-attr", "style-src-elem", "worker-src",
    }
)  # fmt: skip

OLD = "application/csp-report"
NEW = "application/reports+json"

_OLD_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["csp-report"],
    "properties": {"csp-report": {"type": "object"}},
}
_NEW_SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "maxItems": MAX_REPORTS_A_BODY,
    "items": {
        "type": "object",
        "required": ["type", "body"],
        "properties": {"type": {"type": "string"}, "body": {"type": "object"}},
    },
}


class AddressLimit:
    """At most so many requests of one address in any window; the addresses longest silent are forgotten."""

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._window_s, self._clock = limit, window_s, clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """0 if one more is allowed, and then it is counted; else the seconds until one will be."""
        now = self._clock()
        times = self._times.setdefault(address, deque())
        self._times.move_to_end(address)
        if len(self._times) > ADDRESSES_KEPT:
            self._times.popitem(last=False)
        while times and times[0] <= now - self._window_s:
            times.popleft()
        if len(times) >= self._limit:
            return times[0] + self._window_s - now
        times.append(now)
        return 0.0


class CspReports:
    """`count(directive, disposition)` is called for each report."""

    def __init__(self, count: Callable[[str, str], None], proxies: Networks = ()) -> None:
        self._count = count
        self._proxies = proxies
        self._limit = AddressLimit(REQUESTS_PER_MINUTE, WINDOW_S)
        self._lines = AddressLimit(LINES_PER_MINUTE, WINDOW_S)

    def routes(self) -> list[Route]:
        return [
            Route("POST", PATH, Who.ANYONE, self._take, "Where browsers report what broke a page's policy.",
                  status=204, statuses=(400, 413, 415, 429), reads={OLD: _OLD_SCHEMA, NEW: _NEW_SCHEMA}),
        ]  # fmt: skip

    async def _take(self, asked: Asked) -> Answer:
        request = asked.request
        forwarded_for = ",".join(request.headers.getall("X-Forwarded-For", ()))
        wait_s = self._limit.wait_s(client_address(request.remote or "", forwarded_for, self._proxies))
        if wait_s > 0:
            raise RateLimited(
                limit=REQUESTS_PER_MINUTE, window_s=WINDOW_S, retry_after_s=max(1, round(wait_s)), policy="csp-reports"
            )
        for violation in list(_violations(request.content_type, await _body(request))):
            self._note(violation)
        return Answer(status=204)

    def _note(self, violation: Mapping[str, Any]) -> None:
        directive = _directive(violation)
        disposition = "report" if _first(violation, "disposition") == "report" else "enforce"
        self._count(directive, disposition)
        if self._lines.wait_s("") > 0:
            return
        log.warning(
            "csp violation",
            directive=directive,
            disposition=disposition,
            blocked=_address(_first(violation, "blockedURL", "blocked-uri")),
            page=_address(_first(violation, "documentURL", "document-uri")),
            source=_address(_first(violation, "sourceFile", "source-file")),
            line=_number(_first(violation, "lineNumber", "line-number")),
        )


async def _body(request: web.Request) -> Any:
    if (request.content_length or 0) > MAX_REPORT_BYTES:
        raise PayloadTooLarge
    raw = await request.content.read(MAX_REPORT_BYTES + 1)
    while len(raw) <= MAX_REPORT_BYTES and (more := await request.content.read(MAX_REPORT_BYTES + 1 - len(raw))):
        raw += more
    if len(raw) > MAX_REPORT_BYTES:
        raise PayloadTooLarge
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidPayload("the body is not JSON") from None


def _violations(content_type: str, body: Any) -> Iterator[Mapping[str, Any]]:
    """The CSP violations in a body of either format; other kinds of reports in it are none of ours."""
    if content_type == OLD:
        if not isinstance(body, dict) or not isinstance(body.get("csp-report"), dict):
            raise InvalidPayload('the body is not {"csp-report": {…}}')
        yield body["csp-report"]
        return
    if content_type != NEW:
        raise UnsupportedMediaType(f"reports are {OLD} or {NEW}")
    if not isinstance(body, list) or len(body) > MAX_REPORTS_A_BODY:
        raise InvalidPayload(f"the body is not a list of at most {MAX_REPORTS_A_BODY} reports")
    for report in body:
        well_formed = isinstance(report, dict) and isinstance(report.get("type"), str)
        if not well_formed or not isinstance(report.get("body"), dict):
            raise InvalidPayload("a report is not {type, body}")
    for report in body:
        if report.get("type") == "csp-violation":
            yield report["body"]


def _first(violation: Mapping[str, Any], *names: str) -> Any:
    return next((violation[name] for name in names if name in violation), None)


def _directive(violation: Mapping[str, Any]) -> str:
    named = _first(violation, "effectiveDirective", "effective-directive", "violated-directive")
    name = named.split(" ", 1)[0] if isinstance(named, str) else ""
    return name if name in DIRECTIVES else "other"


def _address(value: Any) -> str | None:
    """A URL without its query, fragment and user, or a keyword such as `inline`, fit for a log line."""
    if not isinstance(value, str):
        return None
    cut = value[: 4 * MAX_TEXT_CHARACTERS]
    try:
        parts = urlsplit(cut)
        shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        shown = "not a URL"
    return "".join(c for c in shown if c.isprintable())[:MAX_TEXT_CHARACTERS]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
