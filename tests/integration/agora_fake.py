"""A stand-in for the part of Agora's REST API that we use, after its documentation; its faults are set by the test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeAgora:
    """Kicking rules as Agora has them. `replies` are taken, one a request to (method, path), before all else."""

    app_id: str = "970CA35de60c44645bbae8a215061b33"
    customer_id: str = "customer"
    customer_secret: str = "customer secret"
    base: str = ""
    rules: list[dict[str, Any]] = field(default_factory=list)
    put_out: list[dict[str, Any]] = field(default_factory=list)
    """Every rule that was carried out, those of 0 seconds too."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    replies: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)

    RULES = "/dev/v1/kicking-rule"

    def reply(self, method: str, path: str, *replies: Reply) -> None:
        self.replies.setdefault((method, path), []).extend(replies)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeAgora]:
        app = web.Application(middlewares=[self._faults, self._authorize])
        app.router.add_post(self.RULES, self.make_rule)
        app.router.add_get(self.RULES, self._list_rules)
        async with TestServer(app) as server:
            self.base = str(server.make_url("")).rstrip("/")
            yield self

    @web.middleware
    async def _faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        faults = self.replies.get((request.method, request.path))
        response: web.StreamResponse = await (faults.pop(0) if faults else handler)(request)
        return response

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Any) -> web.StreamResponse:
        expected = base64.b64encode(f"{self.customer_id}:{self.customer_secret}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def make_rule(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        if wanted["appid"] != self.app_id:
            return web.json_response({"message": "invalid appid"}, status=400)
        assert isinstance(wanted["uid"], int)
        assert wanted["uid"] > 0
        self.put_out.append(wanted)
        rule_id = 1953 + len(self.put_out)
        if wanted["time_in_seconds"]:
            rule = {key: wanted[key] for key in ("appid", "cname", "uid", "ip", "privileges")}
            self.rules.append(rule | {"id": rule_id, "opid": 1406, "ts": "2030-01-09T08:45:54.000Z"})
        return web.json_response({"status": "success", "id": rule_id})

    async def _list_rules(self, request: web.Request) -> web.StreamResponse:
        assert request.query["appid"] == self.app_id
        return web.json_response({"status": "success", "rules": self.rules})


def status(code: int, body: str = '{"message": "as the test wants it"}') -> Reply:
    async def reply(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=body, content_type="application/json")

    return reply


async def silence(request: web.Request) -> web.StreamResponse:
    """Never answers; ends when the client hangs up, or the server closes."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(0.01)
    return web.Response()


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def after(first: Reply, then: Reply) -> Reply:
    """Carry the request out as `first` does, then answer as `then`: what was done, and an answer that was lost."""

    async def reply(request: web.Request) -> web.StreamResponse:
        await first(request)
        return await then(request)

    return reply
