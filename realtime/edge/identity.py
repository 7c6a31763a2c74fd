"""Who is calling: verifies JWTs (HS256 by a shared secret, or RS256/ES256 by a JWKS) into an Identity.

The algorithm is fixed by the configuration, never taken from the token, so `alg: none` and a public key used as an HMAC
secret are refused like any other bad signature.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Protocol

import jwt
import structlog

from realtime.adapters.logs import in_words
from realtime.config import Settings
from realtime.domain.errors import Unauthenticated, Unavailable
from realtime.domain.trust import Identity, Trust, UserRole, is_user_id

log = structlog.get_logger()

LEEWAY_S = 5
"""How far the issuer's clock may be ahead of ours; how long a token holds is never stretched by it."""
LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
"""A token may hold for longer than dates can say."""
JWKS_FRESH_S = 300
JWKS_RETRY_S = 10


class Verifier(Protocol):
    async def verify(self, token: str) -> Identity:
        """Raises Unauthenticated if the token does not hold, Unavailable if the keys cannot be had."""


def _identity(claims: dict[str, Any]) -> Identity:
    user_id, trust, role = claims.get("sub"), claims.get("trust", Trust.BASIC), claims.get("role", UserRole.USER)
    if not isinstance(user_id, str) or not is_user_id(user_id):
        raise Unauthenticated("the token's sub is not a user id of 1 to 128 characters")
    try:
        return Identity(
            user_id=user_id, trust=Trust(trust), role=UserRole(role), expires_at_s=min(int(claims["exp"]), LAST_SECOND)
        )
    except ValueError:
        raise Unauthenticated("the token's trust or role is not known here") from None


def _decode(token: str, key: Any, algorithms: list[str]) -> Identity:
    try:
        claims = jwt.decode(
            token, key, algorithms=algorithms, leeway=LEEWAY_S, options={"require": ["exp", "sub"], "verify_aud": False}
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except (jwt.PyJWTError, ValueError, UnicodeError, RecursionError):
        raise Unauthenticated("the token does not hold") from None
    identity = _identity(claims)
    if not identity.holds_at(time.time()):
        raise Unauthenticated("the token has expired")
    return identity


class SharedSecret:
    def __init__(self, secret: str) -> None:
        self._secret = secret

    async def verify(self, token: str) -> Identity:
        return _decode(token, self._secret, ["HS256"])

    def issue(self, user_id: str, *, trust: str, role: str, lifetime_s: int = 86_400) -> str:
        """A token of our own: for development's login only."""
        claims = {"sub": user_id, "trust": trust, "role": role, "exp": int(time.time()) + lifetime_s}
        return jwt.encode(claims, self._secret, algorithm="HS256")


class KeySet:
    """Keys by id from a JWKS URL, fetched again when stale or when an unknown key id turns up (at most every 10 s)."""

    def __init__(self, url: str, fetch: Any) -> None:
        self._url = url
        self._fetch = fetch
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Identity:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, UnicodeError, RecursionError):
            raise Unauthenticated("the token does not hold") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ("RS256", "ES256"):  # no set: a header may hold what has no hash
            raise Unauthenticated("the token does not hold")
        key = await self._key(key_id)
        if key.key_type != {"RS256": "RSA", "ES256": "EC"}[algorithm]:
            raise Unauthenticated("the token does not hold")
        return _decode(token, key.key, [algorithm])

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        fresh = time.monotonic() - self._fetched_at <= JWKS_FRESH_S
        if key_id in self._keys and (fresh or self._lock.locked()):
            return self._keys[key_id]  # without a wait for somebody else's fetch
        async with self._lock:
            now = time.monotonic()
            stale = now - self._fetched_at > JWKS_FRESH_S
            if (stale or key_id not in self._keys) and now - self._tried_at > JWKS_RETRY_S:
                self._tried_at = now
                try:
                    found = jwt.PyJWKSet.from_dict(await self._fetch(self._url))
                except Exception as error:
                    log.warning("the JWKS cannot be fetched", error=in_words(error))
                else:
                    self._keys = {key.key_id: key for key in found.keys}
                    self._fetched_at = now
        if self._fetched_at == float("-inf"):
            raise Unavailable("the keys that tokens are signed with cannot be fetched")
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        try:
            return self._keys[key_id]
        except KeyError:
            raise Unauthenticated("the token's key is not known") from None


def verifier_of(settings: Settings, fetch_json: Any) -> Verifier:
    if settings.jwt_jwks_url:
        return KeySet(settings.jwt_jwks_url, fetch_json)
    assert settings.jwt_secret, "the settings give a secret or a JWKS URL"
    return SharedSecret(settings.jwt_secret)
