"""Browser sessions: an identity kept in Redis behind a random cookie, so that no token is within JavaScript's reach.

Only a hash of the cookie is stored: whoever reads Redis cannot put on somebody's session.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from realtime.domain.errors import Unauthenticated
from realtime.domain.trust import Identity, Trust, UserRole


@dataclass(frozen=True, slots=True)
class Session:
    identity: Identity
    csrf_token: str


def _key(cookie: str) -> str:
    return f"{{callmeter}}:session:{hashlib.sha256(cookie.encode()).hexdigest()}"


class Sessions:
    """Raises Redis's errors: without Redis nobody can be told apart by a cookie."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def open(self, identity: Identity) -> tuple[str, Session]:
        """A new session that ends with the token it was made from; answers the cookie's value with it."""
        cookie, session = secrets.token_urlsafe(32), Session(identity, secrets.token_urlsafe(24))
        lifetime_s = identity.expires_at_s - int(time.time())
        if lifetime_s <= 0:
            raise Unauthenticated("the token has expired")
        kept = {
            "userId": identity.user_id,
            "trust": identity.trust,
            "role": identity.role,
            "expiresAt": identity.expires_at_s,
            "csrf": session.csrf_token,
        }
        await self._redis.set(_key(cookie), json.dumps(kept), ex=lifetime_s)
        return cookie, session

    async def find(self, cookie: str) -> Session:
        """The session of a cookie; raises Unauthenticated if it has ended or never was."""
        kept = await self._redis.get(_key(cookie))
        if kept is None:
            raise Unauthenticated("the session has ended")
        fields = json.loads(kept)
        identity = Identity(
            user_id=fields["userId"],
            trust=Trust(fields["trust"]),
            role=UserRole(fields["role"]),
            expires_at_s=fields["expiresAt"],
        )
        return Session(identity, fields["csrf"])

    async def close(self, cookie: str) -> None:
        await self._redis.delete(_key(cookie))
