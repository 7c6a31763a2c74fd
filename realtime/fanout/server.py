"""The Socket.IO server, and the port it shares with the HTTP application."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import socketio
from aiohttp import web
from engineio.async_drivers import aiohttp as aiohttp_driver

from realtime.fanout.limits import Limits


def _environ(request: web.Request) -> dict[str, Any]:
    environ: dict[str, Any] = aiohttp_driver.translate_request(request)
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if isinstance(peer, tuple):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = peer[0], str(peer[1])
    return environ


def _origin_check(allowed_origins: Sequence[str] | str) -> Callable[[str | None, dict[str, Any]], bool] | str:
    """`*` lets every page in; else those named, and the page this server serves itself."""
    if "*" in allowed_origins:
        return "*"
    named = frozenset(allowed_origins)

    def allowed(origin: str | None, environ: dict[str, Any]) -> bool:
        return origin in named or urlsplit(origin or "").netloc.lower() == environ.get("HTTP_HOST", "").lower() != ""

    return allowed


class FanoutServer(socketio.AsyncServer):  # type: ignore[misc]
    """A `socketio.AsyncServer`; `on_gap` is awaited when this process's tabs may have missed pushes."""

    def __init__(
        self,
        *,
        redis_url: str | None = None,
        allowed_origins: Sequence[str] | str = (),
        ping_interval_s: float = 25.0,
        ping_timeout_s: float = 20.0,
        limits: Limits | None = None,
        instance_id: str | None = None,
        on_gap: Callable[[], Awaitable[None]] | None = None,
        **options: Any,
    ) -> None:
        self.limits = limits or Limits()
        self.instance_id = instance_id or secrets.token_hex(4)
        self.on_gap = on_gap
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        super().__init__(
            async_mode="aiohttp",
            client_manager=socketio.AsyncRedisManager(redis_url) if redis_url else None,
            cors_allowed_origins=_origin_check(allowed_origins),
            ping_interval=ping_interval_s,
            ping_timeout=ping_timeout_s,
            max_http_buffer_size=self.limits.message_bytes,
            **options,
        )
        self.eio._async = {**self.eio._async, "translate_request": _environ}

    async def emit_many(self, pushes: Iterable[tuple[str, str, Any]]) -> None:
        """Send each `(room, event, data)` to the tabs in its room, on every instance, in this order."""
        for room, event, data in pushes:
            await self.emit(event, data, room=room)

    def set_expiry(self, sid: str, epoch_s: float) -> None:
        """Tell the socket `auth:expired` at `epoch_s`; drop it `limits.expiry_grace_s` later unless called again."""
        self.clear_expiry(sid)
        loop = asyncio.get_running_loop()
        self._expiries[sid] = loop.call_later(max(0.0, epoch_s - time.time()), self._expire, sid)

    def clear_expiry(self, sid: str) -> None:
        if timer := self._expiries.pop(sid, None):
            timer.cancel()

    def _expire(self, sid: str) -> None:
        loop = asyncio.get_running_loop()
        self._expiries[sid] = loop.call_later(self.limits.expiry_grace_s, self._drop_expired, sid)
        self.start_background_task(self.emit, "auth:expired", {"graceSeconds": self.limits.expiry_grace_s}, to=sid)

    def _drop_expired(self, sid: str) -> None:
        self._expiries.pop(sid, None)
        self.start_background_task(self.disconnect, sid)

    async def start(self) -> None:
        """Listen to the other instances."""

    async def stop(self) -> None:
        """Stop listening, and end what runs in the background."""
        for sid in list(self._expiries):
            self.clear_expiry(sid)
        await self.shutdown()
        listening = getattr(self.manager, "thread", None)
        if listening is not None:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    def deaf(self) -> str | None:
        """Why messages of other instances do not arrive here; None when they do."""
        return None


@asynccontextmanager
async def serve(
    app: web.Application,
    sio: FanoutServer,
    *,
    host: str | None = None,
    port: int | None = None,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
) -> AsyncIterator[web.BaseSite]:
    """The application's HTTP and the Socket.IO server on one port."""
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site: web.BaseSite = (
        web.SockSite(runner, sock) if sock else web.TCPSite(runner, host, port, reuse_port=reuse_port or None)
    )
    await site.start()
    try:
        yield site
    finally:
        await runner.cleanup()
