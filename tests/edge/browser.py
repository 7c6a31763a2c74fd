"""A browser as far as sessions go: keeps the cookie it is given, sends its origin and, when told, the CSRF token."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import socketio

from tests.servers import Server, token_of


class Browser:
    def __init__(self, http: aiohttp.ClientSession, server: Server) -> None:
        self.http, self.server = http, server
        self.cookie: str | None = None
        self.csrf_token: str | None = None
        self.cookie_name = "callmeter_session"

    async def ask(self, method: str, path: str, **options: Any) -> aiohttp.ClientResponse:
        headers = {"Origin": self.server.url} | options.pop("headers", {})
        if self.cookie is not None:
            headers["Cookie"] = f"theme=dark; {self.cookie_name}={self.cookie}"
        answer = await self.http.request(method, self.server.url + path, headers=headers, **options)
        await answer.read()
        for header in answer.headers.getall("Set-Cookie", []):
            for name, morsel in SimpleCookie(header).items():
                assert name == self.cookie_name
                self.cookie = morsel.value or None
        return answer

    async def change(self, method: str, path: str, **options: Any) -> aiohttp.ClientResponse:
        """As a page's own script does it: with the CSRF token."""
        return await self.ask(method, path, headers={"X-CSRF-Token": self.csrf_token or ""}, **options)

    async def sign_in(self, user: str, **claims: Any) -> dict[str, Any]:
        answer = await self.ask("POST", "/bff/session", headers={"Authorization": f"Bearer {token_of(user, **claims)}"})
        assert answer.status == 200, await answer.text()
        session: dict[str, Any] = await answer.json()
        self.csrf_token = session["csrfToken"]
        return session

    async def who(self) -> dict[str, Any]:
        answer = await self.ask("GET", "/bff/session")
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found

    def socket_headers(self, origin: str | None = None) -> dict[str, str]:
        return {"Cookie": f"{self.cookie_name}={self.cookie}", "Origin": origin or self.server.url}

    async def open_socket(self, origin: str | None = None) -> socketio.AsyncClient:
        client = socketio.AsyncClient(reconnection=False)
        await client.connect(
            self.server.url, headers=self.socket_headers(origin), transports=["websocket"], wait_timeout=30
        )
        return client
