"""What stands between a server and localstripe when the network is bad: answers that get lost, and come late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Rule = Callable[[str, str], bool]


@dataclass(slots=True)
class Unreliable:
    """A proxy. `lose` names requests that are carried out and not answered; `refuse`, those answered 500 undone;
    `forbid`, those answered 400 undone; `hang`, those that are neither passed on nor answered.
    """

    url: str = ""
    lose: Rule = lambda _method, _path: False
    refuse: Rule = lambda _method, _path: False
    forbid: Rule = lambda _method, _path: False
    hang: Rule = lambda _method, _path: False
    answers: dict[str, Any] = field(default_factory=dict)
    """What the server behind does not have: bodies by path."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    """Of the requests seen, in their order."""

    def count(self, ending: str) -> int:
        return sum(path.endswith(ending) for _, path in self.seen)

    def recover(self) -> None:
        self.lose = self.refuse = self.forbid = self.hang = lambda _method, _path: False


@asynccontextmanager
async def between(upstream: str, http: aiohttp.ClientSession) -> AsyncIterator[Unreliable]:
    proxy = Unreliable()

    async def forward(request: web.Request) -> web.StreamResponse:
        proxy.seen.append((request.method, request.path))
        proxy.headers.append(request.headers)
        if proxy.hang(request.method, request.path):
            await asyncio.Event().wait()
        if request.path in proxy.answers:
            return web.json_response(proxy.answers[request.path])
        if proxy.refuse(request.method, request.path):
            return web.json_response({"error": {"type": "api_error", "message": "out of order"}}, status=500)
        if proxy.forbid(request.method, request.path):
            error = {"type": "invalid_request_error", "code": "charge_disputed", "message": "not this one"}
            return web.json_response({"error": error}, status=400)
        headers = {k: v for k, v in request.headers.items() if k in {"Authorization", "Content-Type"}}
        async with http.request(
            request.method, upstream + request.path_qs, headers=headers, data=await request.read()
        ) as answer:
            body = await answer.read()
        if proxy.lose(request.method, request.path):
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(0)
        return web.Response(status=answer.status, body=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield proxy
    await runner.cleanup()
