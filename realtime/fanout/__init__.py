"""Socket.IO for this server: python-socketio with pushes that cross Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import socketio
from aiohttp import web


class FanoutServer(socketio.AsyncServer):  # type: ignore[misc]
    def __init__(
        self,
        *,
        redis_url: str,
        allowed_origins: Sequence[str] | str,
        instance_id: str,
        on_gap: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            async_mode="aiohttp",
            client_manager=socketio.AsyncRedisManager(redis_url),
            cors_allowed_origins=allowed_origins if isinstance(allowed_origins, str) else list(allowed_origins),
        )
        self.instance_id = instance_id

    async def emit_many(self, pushes: Iterable[tuple[str, str, Any]]) -> None:
        for room, event, data in pushes:
            await self.emit(event, data, room=room)

    def set_expiry(self, sid: str, epoch_s: float) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        await self.shutdown()

    def deaf(self) -> str | None:
        return None


@asynccontextmanager
async def serve(app: web.Application, sio: FanoutServer, *, host: str, port: int) -> AsyncIterator[Any]:
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    try:
        yield site
    finally:
        await runner.cleanup()
