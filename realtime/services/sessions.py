"""Browser sessions: an identity kept in Redis behind a random cookie, so that no token is within JavaScript's reach.

Only a hash of the cookie is stored: whoever reads Redis cannot put on somebody's session. The cookie is made here,
never taken from the browser, and is a new one at each sign-in and renewal, so that one planted beforehand is worth
nothing.

A session knows the sockets opened with it, on any instance: ending it closes them. A user has MOST_SESSIONS at most,
since one token can be exchanged again and again: those opened first make room.
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

RENEWAL_OVERLAP_S = 10
"""How long a renewed session's former cookie is still good: for requests that were on their way."""

MOST_SESSIONS = 1_000
"""Of a user, on all browsers together: as many as may have tabs open."""
OPENED_KEPT_S = 30 * 24 * 3600
"""How long after the last sign-in it is known, at the least, which sessions a user has."""

MAX_COOKIE_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Session:
    id: str
    """Names the session through its renewals; it opens nothing."""
    identity: Identity
    csrf_token: str


def _name(cookie: str) -> str:
    """What a session is kept under."""
    return hashlib.sha256(cookie.encode()).hexdigest()


def _key(name: str) -> str:
    return f"{{callmeter}}:session:{name}"


def _opened_key(user_id: str) -> str:
    """The names of a user's sessions, by when each was opened. One that ran out stays until it has to make room."""
    return f"{{callmeter}}:sessions-of:{user_id}"


def _sockets_key(session_id: str) -> str:
    return f"{{callmeter}}:session-sockets:{session_id}"


class Sessions:
    """Raises Redis's errors: without Redis nobody can be told apart by a cookie."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def open(self, identity: Identity, renewed: tuple[str, Session] | None = None) -> tuple[str, Session]:
        """A session that ends with the token it was made from; answers the cookie's value with it.

        `renewed` is the same user's cookie and session it takes the place of: its sockets and CSRF token stay good.
        """
        cookie = secrets.token_urlsafe(32)
        name = _name(cookie)
        if renewed is not None:
            _, former = renewed
            assert former.identity.user_id == identity.user_id, "a session does not change hands"
            session = Session(former.id, identity, former.csrf_token)
        else:
            session = Session(secrets.token_urlsafe(12), identity, secrets.token_urlsafe(24))
        lifetime_s = identity.expires_at_s - int(time.time())
        if lifetime_s <= 0:
            raise Unauthenticated("the token has expired")
        kept = {
            "id": session.id,
            "userId": identity.user_id,
            "trust": identity.trust,
            "role": identity.role,
            "expiresAt": identity.expires_at_s,
            "csrf": session.csrf_token,
        }
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(_key(name), json.dumps(kept), ex=lifetime_s)
            if renewed is not None:
                pipe.zrem(_opened_key(identity.user_id), _name(renewed[0]))
            pipe.zadd(_opened_key(identity.user_id), {name: time.time()})
            pipe.expire(_opened_key(identity.user_id), max(lifetime_s, OPENED_KEPT_S))
            pipe.expireat(_sockets_key(session.id), identity.expires_at_s)
            await pipe.execute()
        return cookie, session

    async def find(self, cookie: str) -> Session:
        """The session of a cookie; raises Unauthenticated if it has ended or never was."""
        return await self._find(_name(cookie)) if _may_be_ours(cookie) else _session(None)

    async def _find(self, name: str) -> Session:
        return _session(await self._redis.get(_key(name)))

    async def retire(self, cookie: str) -> None:
        """The cookie was renewed: it ends a moment from now."""
        await self._redis.expire(_key(_name(cookie)), RENEWAL_OVERLAP_S)

    async def close(self, cookie: str) -> set[str]:
        """End the session; answers the ids of the sockets opened with it."""
        return await self._end(_name(cookie), await self.find(cookie))

    async def make_room(self, user_id: str) -> set[str]:
        """End the sessions of a user that are too many; answers the ids of the sockets opened with them."""
        sockets: set[str] = set()
        for opened in await self._redis.zrange(_opened_key(user_id), 0, -MOST_SESSIONS - 1):
            name = _text(opened)
            try:
                sockets |= await self._end(name, await self._find(name))
            except Unauthenticated:
                await self._redis.zrem(_opened_key(user_id), name)
        return sockets

    async def _end(self, name: str, session: Session) -> set[str]:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_key(name))
            pipe.zrem(_opened_key(session.identity.user_id), name)
            pipe.smembers(_sockets_key(session.id))
            pipe.delete(_sockets_key(session.id))
            _, _, sockets, _ = await pipe.execute()
        return {_text(socket) for socket in sockets}

    async def attach(self, cookie: str, socket_id: str) -> Session:
        """A socket is being opened with the session.

        The socket is noted before the session is looked at, in one transaction: whoever ends the session either finds
        the socket, or has ended the session by the time it is looked at here.
        """
        session = await self.find(cookie)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(_sockets_key(session.id), socket_id)
            pipe.expireat(_sockets_key(session.id), session.identity.expires_at_s)
            pipe.get(_key(_name(cookie)))
            *_, kept = await pipe.execute()
        return _session(kept)

    async def detach(self, session_id: str, socket_id: str) -> None:
        """The socket has gone."""
        await self._redis.srem(_sockets_key(session_id), socket_id)


def _text(member: bytes | str) -> str:
    return member.decode() if isinstance(member, bytes) else member


def _may_be_ours(cookie: str) -> bool:
    return 0 < len(cookie) <= MAX_COOKIE_CHARACTERS and cookie.isascii()


def _session(kept: bytes | str | None) -> Session:
    if kept is None:
        raise Unauthenticated("the session has ended")
    fields = json.loads(kept)
    identity = Identity(
        user_id=fields["userId"],
        trust=Trust(fields["trust"]),
        role=UserRole(fields["role"]),
        expires_at_s=fields["expiresAt"],
    )
    if not identity.holds_at(time.time()):
        raise Unauthenticated("the session has ended")
    return Session(fields["id"], identity, fields["csrf"])
