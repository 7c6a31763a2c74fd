"""The headers browsers are told to obey, on every answer whichever way it is made.

They are set when an answer is about to be sent, so that errors, files and streamed answers have them as well. A page
gets the page's policy with a nonce of its own; everything else a policy under which nothing runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from realtime.config import Settings
from realtime.edge import csp

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "X-Frame-Options": "DENY",
    # Payment methods open windows that answer to their opener. Not the isolating COEP beside it: Stripe.js does not
    # support cross-origin isolation (docs.stripe.com/js/appendix/cross_origin_isolation).
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HSTS = "max-age=31536000"
"""Without includeSubDomains: what else lives under the operator's domain is not this server's to decide."""

PERMISSIONS = ", ".join(
    [
        "camera=(self)",
        "microphone=(self)",
        'payment=(self "https://js.stripe.com")',
        "display-capture=()",
        "geolocation=()",
        "usb=()",
        "browsing-topics=()",
    ]
)

_NONCE = web.RequestKey("csp_nonce", str)


def nonce_of(request: web.Request) -> str:
    """The nonce of this request's answer: for whoever writes the page, and for its policy."""
    if _NONCE not in request:
        request[_NONCE] = csp.new_nonce()
    return request[_NONCE]


def security_headers(settings: Settings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For `Application.on_response_prepare`."""
    policy = csp.PagePolicy(settings)

    async def set_headers(request: web.Request, answer: web.StreamResponse) -> None:
        if answer.status == 101:
            return
        headers = answer.headers
        for name, value in EVERYWHERE.items():
            headers.setdefault(name, value)
        headers[hdrs.SERVER] = "CallMeter"
        if settings.production:
            headers[hdrs.STRICT_TRANSPORT_SECURITY] = HSTS
        if answer.content_type == "text/html":
            headers[policy.header] = policy.with_nonce(nonce_of(request))
            headers["Reporting-Endpoints"] = policy.reporting_endpoints
            headers["Permissions-Policy"] = PERMISSIONS
        else:
            headers["Content-Security-Policy"] = csp.API
            headers.setdefault(hdrs.CACHE_CONTROL, "no-store")  # what is told of a user is no cache's to keep

    return set_headers
