"""How users prove who they are: tokens signed here with the server's secret, or asked of a development server's login.

`rooms` is for the benchmark's servers, which ask nobody who he is and let a tab say which rooms it wants to be in.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import aiohttp
import jwt

TOKEN_LASTS_S = 6 * 3600
LOGINS_AT_ONCE = 16


class Credentials:
    def __init__(
        self, url: str, http: aiohttp.ClientSession, *, secret: str | None = None, rooms: dict[str, Any] | None = None
    ) -> None:
        self._url = url
        self._http = http
        self._secret = secret
        self._rooms = rooms
        self._admin: str | None = None

    async def of(self, users: list[str]) -> list[dict[str, Any]]:
        """Each user's `auth` of the Socket.IO handshake."""
        if self._rooms is not None:
            shared: list[str] = self._rooms["shared"]
            return [{"rooms": [user, *shared]} for user in users]
        room = asyncio.Semaphore(LOGINS_AT_ONCE)

        async def token(user: str) -> dict[str, Any]:
            async with room:
                return {"token": await self._token(user, trust="vip")}

        return list(await asyncio.gather(*map(token, users)))

    async def _token(self, user: str, **claims: str) -> str:
        if self._secret is not None:
            return jwt.encode({"sub": user, "exp": int(time.time()) + TOKEN_LASTS_S, **claims}, self._secret)
        async with self._http.post(f"{self._url}/dev/login", json={"userId": user, **claims}) as answer:
            if answer.status != 200:
                raise LookupError(f"/dev/login answers {answer.status}: it is no development server, give --jwt-secret")
            token: str = (await answer.json())["token"]
            return token

    async def grant(self, user: str, tokens: int) -> int:
        """Give a user tokens as an admin; answers the wallet's version. Raises RuntimeError, aiohttp.ClientError."""
        if self._admin is None:
            self._admin = await self._token("load-tabs", role="admin")
        headers = {"Authorization": f"Bearer {self._admin}", "Idempotency-Key": uuid4().hex}
        body = {"userId": user, "tokens": tokens, "reason": "load test"}
        async with self._http.post(f"{self._url}/api/v1/admin/grants", json=body, headers=headers) as answer:
            said = await answer.json(content_type=None)
            if answer.status != 200:
                raise RuntimeError(f"a grant answers {answer.status} {said.get('code', '')}".strip())
            version: int = said["version"]
            return version
