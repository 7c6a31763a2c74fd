"""The Content-Security-Policy of pages and of API answers, and the headers that say where violations are reported.

A page may run its own scripts (each answer's with a nonce of its own), and what Stripe and Agora document they need:

- Stripe.js: docs.stripe.com/security/guide, "Content Security Policy", the lines for Stripe.js. The maps.googleapis.com
  they list belongs to the Address Element's completion, which no page here has.
- Agora Web SDK: docs.agora.io/en/introduction/firewall, "RTC SDK (Web)": these domains, on more ports than 443. The
  SDK runs timers and statistics in workers made from blobs (github.com/AgoraIO/rtc-web-archive/issues/45).

Scripts and frames of other hosts, inline scripts and styles, eval, plug-ins and being framed are refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from realtime.config import Settings

NONCE_PLACE = "__CSP_NONCE__"
"""What stands in the built page where each answer's nonce goes."""

STRIPE: Mapping[str, tuple[str, ...]] = {
    "connect-src": ("https://api.stripe.com",),
    "frame-src": ("https://js.stripe.com", "https://*.js.stripe.com", "https://hooks.stripe.com"),
    "script-src": ("https://js.stripe.com", "https://*.js.stripe.com"),
}

AGORA_DOMAINS = ("agora.io", "sd-rtn.com", "rtnsvc.com", "rtesvc.com")
AGORA: Mapping[str, tuple[str, ...]] = {
    "connect-src": tuple(f"{scheme}://*.{domain}:*" for domain in AGORA_DOMAINS for scheme in ("https", "wss")),
    "worker-src": ("blob:",),
}

PAGE: Mapping[str, tuple[str, ...]] = {
    "default-src": ("'self'",),
    "script-src": ("'self'", f"'nonce-{NONCE_PLACE}'"),
    "style-src": ("'self'", f"'nonce-{NONCE_PLACE}'"),
    "connect-src": ("'self'",),
    "frame-src": (),
    "worker-src": ("'self'",),
    "object-src": ("'none'",),
    "base-uri": ("'none'",),
    "form-action": ("'self'",),
    "frame-ancestors": ("'none'",),
}

API = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""For answers no browser should take for a page."""

REPORT_GROUP = "csp"


class PagePolicy:
    """The policy of one server's pages: composed once, given a nonce for each answer."""

    def __init__(self, settings: Settings) -> None:
        sources = {directive: list(allowed) for directive, allowed in PAGE.items()}
        for vendor in (STRIPE, AGORA, _stand_in(settings)):
            for directive, allowed in vendor.items():
                sources[directive] += allowed
        directives = [f"{directive} {' '.join(allowed)}" for directive, allowed in sources.items()]
        if settings.production:
            directives.append("upgrade-insecure-requests")
        directives.append(f"report-uri {settings.csp_report_uri}")
        # A browser that knows report-to ignores report-uri for it (W3C CSP 3, section 5.3), yet takes
        # Reporting-Endpoints over HTTPS alone: over plain HTTP, as in development, it would report nothing at all.
        if settings.production:
            directives.append(f"report-to {REPORT_GROUP}")
        self._policy = "; ".join(directives)
        report_only = settings.csp_report_only
        self.header = "Content-Security-Policy-Report-Only" if report_only else "Content-Security-Policy"
        self.reporting_endpoints = f'{REPORT_GROUP}="{settings.csp_report_uri}"'

    def with_nonce(self, nonce: str) -> str:
        return self._policy.replace(NONCE_PLACE, nonce)


def stand_in_origin(settings: Settings) -> str | None:
    """Where the page finds a stand-in for Stripe, in development with STRIPE_API_BASE elsewhere than at Stripe."""
    base = settings.stripe_api_base
    return None if settings.production or base == "https://api.stripe.com" else base


def _stand_in(settings: Settings) -> Mapping[str, tuple[str, ...]]:
    origin = stand_in_origin(settings)
    return dict.fromkeys(("connect-src", "frame-src", "script-src"), (origin,)) if origin else {}


def new_nonce() -> str:
    return secrets.token_urlsafe(18)
