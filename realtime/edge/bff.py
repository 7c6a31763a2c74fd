"""Browser sessions: a page hands its token in once and is remembered by a cookie no script can read.

Signing in makes a session under a new cookie and ends, sockets and all, another user's that the browser had. Renewing,
by the same user with a fresh token, keeps the CSRF token and the other tabs' sockets, and retires the former cookie a
moment later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from realtime.config import Settings
from realtime.domain.errors import Unauthenticated
from realtime.edge import answers
from realtime.edge.authentication import Authenticator
from realtime.edge.csp import stand_in_origin
from realtime.edge.routes import Answer, Asked, Route, Who
from realtime.services import pushes
from realtime.services.sessions import Session

PATH = "/bff/session"
NO_STORE = (("Cache-Control", "no-store"),)

HangUp = Callable[[str], Awaitable[None]]
"""Closes the socket of that id, on whichever instance it is."""


def client_config(settings: Settings) -> dict[str, Any]:
    """What a page needs to know of this server before anybody has signed in."""
    return {
        "environment": settings.environment.value,
        "agoraConfigured": settings.agora_configured,
        "agoraAppId": settings.agora_app_id,
        "stripePublishableKey": settings.stripe_publishable_key,
        "stripeApiBase": stand_in_origin(settings),
        "tokensPerUsd": settings.tokens_per_usd,
        "periodSeconds": settings.billing_period_seconds,
        "devLogin": not settings.production and bool(settings.jwt_secret),
        "enhancedFeatures": settings.enable_enhanced_features,
    }


def session_routes(settings: Settings, authenticator: Authenticator, hang_up: HangUp) -> list[Route]:
    sessions = authenticator.sessions
    config = client_config(settings)

    def shown(session: Session) -> dict[str, Any]:
        identity = session.identity
        return {
            "authenticated": True,
            "userId": identity.user_id,
            "trust": identity.trust.value,
            "role": identity.role.value,
            "csrfToken": session.csrf_token,
            "expiresAt": pushes.iso(datetime.fromtimestamp(identity.expires_at_s, UTC)),
            "config": config,
        }

    async def hang_up_all(socket_ids: set[str]) -> None:
        await asyncio.gather(*map(hang_up, socket_ids))

    async def former_session(cookie: str) -> Session | None:
        try:
            return await sessions.find(cookie)
        except Unauthenticated:
            return None

    async def sign_in(asked: Asked) -> web.Response:
        request, identity = asked.request, asked.caller
        authenticator.check_origin(request.headers.get("Origin"), request.host)
        former_cookie = authenticator.cookie_of(request)
        former = await former_session(former_cookie) if former_cookie else None
        if former_cookie and former and former.identity.user_id != identity.user_id:
            await hang_up_all(await sessions.close(former_cookie))
            former = None
        renewed = (former_cookie, former) if former_cookie and former else None
        cookie, session = await sessions.open(identity, renewed)
        # A renewal too: whoever renews one session again and again makes one each time.
        await hang_up_all(await sessions.make_room(identity.user_id))
        if renewed:
            await sessions.retire(renewed[0])  # the last: where no new one could be made, the browser keeps this one
        answer = Answer(shown(session), headers=NO_STORE).response()
        answer.set_cookie(
            authenticator.cookie,
            cookie,
            max_age=identity.expires_at_s - int(time.time()),
            path="/",
            secure=authenticator.secure_cookies,
            httponly=True,
            samesite="Lax",
        )
        return answer

    async def look(asked: Asked) -> web.Response:
        cookie = authenticator.cookie_of(asked.request)
        session = await former_session(cookie) if cookie else None
        if session is not None:
            return Answer(shown(session), headers=NO_STORE).response()
        answer = Answer({"authenticated": False, "config": config}, headers=NO_STORE).response()
        if cookie:
            forget(answer)
        return answer

    async def sign_out(asked: Asked) -> web.Response:
        cookie = authenticator.cookie_of(asked.request)
        assert cookie, "the session was found by it"
        await hang_up_all(await sessions.close(cookie))
        answer = Answer(status=204, headers=NO_STORE).response()
        forget(answer)
        return answer

    def forget(answer: web.Response) -> None:
        answer.del_cookie(
            authenticator.cookie, path="/", secure=authenticator.secure_cookies, httponly=True, samesite="Lax"
        )

    return [
        Route("POST", PATH, Who.BEARER, sign_in, "Turn a token into a session cookie, or renew the session.",
              answer=answers.SignedIn),
        Route("GET", PATH, Who.ANYONE, look, "Who is signed in here, and what a page needs to know.",
              answer=answers.SessionState),
        Route("DELETE", PATH, Who.SESSION, sign_out, "Sign out: ends the session and closes its sockets.",
              status=204),
    ]  # fmt: skip
