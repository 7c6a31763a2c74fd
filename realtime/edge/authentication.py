"""From a request or a handshake to an Identity: a Bearer token, or the session cookie with its CSRF token."""

from __future__ import annotations

import hmac
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any

from aiohttp import web

from realtime.domain.errors import CsrfRefused, Forbidden, Unauthenticated
from realtime.domain.trust import Identity, UserRole
from realtime.edge.identity import Verifier
from realtime.services.sessions import Session, Sessions

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
COOKIE = "callmeter_session"


def cookie_name(*, secure: bool) -> str:
    """`__Host-` makes browsers refuse the cookie from a subdomain or over plain HTTP; it needs Secure."""
    return f"__Host-{COOKIE}" if secure else COOKIE


class Authenticator:
    def __init__(self, verifier: Verifier, sessions: Sessions, *, secure_cookies: bool) -> None:
        self._verifier = verifier
        self._sessions = sessions
        self.secure_cookies = secure_cookies
        self.cookie = cookie_name(secure=secure_cookies)

    async def bearer(self, request: web.Request) -> Identity | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("the Authorization header is not a Bearer token")
        return await self._verifier.verify(token.strip())

    async def session(self, request: web.Request) -> Session | None:
        cookie = request.cookies.get(self.cookie)
        return await self._sessions.find(cookie) if cookie else None

    async def of_request(self, request: web.Request) -> Identity:
        """Who sent this request. With a cookie, a method that changes something needs the session's CSRF token."""
        if identity := await self.bearer(request):
            return identity
        session = await self.session(request)
        if session is None:
            raise Unauthenticated
        if request.method not in SAFE_METHODS:
            self.check_csrf(request, session)
        return session.identity

    @staticmethod
    def check_csrf(request: web.Request, session: Session) -> None:
        given = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(given.encode(), session.csrf_token.encode()):
            raise CsrfRefused

    async def of_admin(self, request: web.Request) -> Identity:
        identity = await self.of_request(request)
        if identity.role is not UserRole.ADMIN:
            raise Forbidden("this needs the role admin")
        return identity

    async def of_handshake(self, environ: dict[str, Any], auth: Any) -> Identity:
        """Who opens this socket: `auth: {token}`, or the session cookie of the page."""
        if auth is not None:
            if not isinstance(auth, dict) or set(auth) - {"token"} or not isinstance(auth.get("token"), str):
                raise Unauthenticated("the handshake's auth is not {token}")
            return await self._verifier.verify(auth["token"])
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(environ.get("HTTP_COOKIE", ""))
        except CookieError:
            raise Unauthenticated from None
        morsel = cookies.get(self.cookie)
        if morsel is None:
            raise Unauthenticated
        return (await self._sessions.find(morsel.value)).identity

    async def of_token(self, token: str) -> Identity:
        return await self._verifier.verify(token)


def still_valid(identity: Identity) -> bool:
    return time.time() < identity.expires_at_s
