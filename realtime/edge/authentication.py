"""From a request or a handshake to an Identity: a Bearer token, or the session cookie with its CSRF token.

A token in the Authorization header or the handshake is put there by whoever holds it. A cookie is sent along by the
browser whoever asked for the request, so with a cookie a request that changes something needs the CSRF token, and a
socket must have been opened by a page of this server or of an allowed origin.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Any

from aiohttp import web

from realtime.domain.errors import CsrfRefused, Forbidden, OriginRefused, Unauthenticated
from realtime.domain.trust import Identity, UserRole
from realtime.edge.identity import Verifier
from realtime.fanout.handshake import same_origin
from realtime.services.sessions import Session, Sessions

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
COOKIE = "callmeter_session"


def cookie_name(*, secure: bool) -> str:
    """`__Host-` makes browsers refuse the cookie from a subdomain or over plain HTTP; it needs Secure."""
    return f"__Host-{COOKIE}" if secure else COOKIE


class Authenticator:
    def __init__(
        self, verifier: Verifier, sessions: Sessions, *, secure_cookies: bool, allowed_origins: Collection[str] = ()
    ) -> None:
        self._verifier = verifier
        self.sessions = sessions
        self.secure_cookies = secure_cookies
        self.cookie = cookie_name(secure=secure_cookies)
        self._allowed_origins = frozenset(allowed_origins)

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def bearer(self, request: web.Request) -> Identity | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("the Authorization header is not a Bearer token")
        return await self._verifier.verify(token.strip())

    def cookie_of(self, request: web.Request) -> str | None:
        return request.cookies.get(self.cookie) or None

    async def session(self, request: web.Request) -> Session | None:
        """The session of the request's cookie, None without a cookie; raises Unauthenticated if it has ended."""
        cookie = self.cookie_of(request)
        return await self.sessions.find(cookie) if cookie else None

    async def of_request(self, request: web.Request) -> Identity:
        """Who sent this request, by token or by session."""
        return await self.bearer(request) or await self.of_session(request)

    async def of_bearer(self, request: web.Request) -> Identity:
        """Who sent this request, by token only."""
        identity = await self.bearer(request)
        if identity is None:
            raise Unauthenticated("a Bearer token is needed")
        return identity

    async def of_session(self, request: web.Request) -> Identity:
        """Who sent this request, by session only; a method that changes something needs the CSRF token."""
        session = await self.session(request)
        if session is None:
            raise Unauthenticated
        if request.method not in SAFE_METHODS:
            self.check_csrf(request, session)
        return session.identity

    @staticmethod
    def check_csrf(request: web.Request, session: Session) -> None:
        given = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="replace"), session.csrf_token.encode()):
            raise CsrfRefused

    async def of_admin(self, request: web.Request) -> Identity:
        identity = await self.of_request(request)
        if identity.role is not UserRole.ADMIN:
            raise Forbidden("this needs the role admin")
        return identity

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """A page that acts by cookie must be this server's own or of a named origin; `*` is not a name.

        Browsers send Origin with every socket and every unsafe request, and scripts cannot change it. Without one it is
        no browser, or a GET of the page's own origin.
        """
        if origin is None or origin in self._allowed_origins:
            return
        if not same_origin(origin, host or ""):
            raise OriginRefused

    # -- sockets -------------------------------------------------------------------------------------------------

    async def of_handshake(self, sid: str, environ: dict[str, Any], auth: Any) -> tuple[Identity, Session | None]:
        """Who opens this socket: `auth: {token}`, or the session cookie of the page.

        What else a client says of itself there (its version, `{}` where it says nothing) is not ours to refuse.
        """
        if not isinstance(auth, dict | None):
            raise Unauthenticated("the handshake's auth is not {token}")
        if auth and "token" in auth:
            if not isinstance(auth["token"], str):
                raise Unauthenticated("the handshake's token is not a string")
            return await self._verifier.verify(auth["token"]), None
        cookie = _cookie_named(self.cookie, environ.get("HTTP_COOKIE", ""))
        if cookie is None:
            raise Unauthenticated
        self.check_origin(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST"))
        session = await self.sessions.attach(cookie, sid)
        return session.identity, session

    async def of_token(self, token: str) -> Identity:
        return await self._verifier.verify(token)


def _cookie_named(name: str, header: str) -> str | None:
    """One cookie of the header, whatever else is in it: other applications' cookies need not be well-formed."""
    for pair in header.split(";"):
        key, equals, value = pair.strip().partition("=")
        if equals and key == name:
            return value.strip('"')
    return None
