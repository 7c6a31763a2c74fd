"""This project's own: `FanoutServer` behind `serve`, as `python -m realtime` runs it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import Any

import structlog
import uvloop
from aiohttp import web

from realtime.fanout import FanoutServer, serve
from scripts.benchmarks.servers import BATCH, EVERYBODY, push
from scripts.tabs.obedience import obey
from scripts.tabs.processes import open_files_to_the_limit


async def main(role: str, redis_url: str | None) -> None:
    sio = FanoutServer(redis_url=redis_url, allowed_origins="*")

    async def connect(sid: str, _environ: dict[str, Any], auth: dict[str, Any]) -> None:
        for room in auth["rooms"]:
            await sio.enter_room(sid, room)

    sio.on("connect", connect)

    async def broadcast(count: int, first: int) -> None:
        for version in range(first, first + count):
            await sio.emit("earnings:update", push(version), room=EVERYBODY)
            await asyncio.sleep(0)

    async def rooms(users: list[str], rounds: int, first: int, *, together: bool) -> None:
        for version in range(first, first + rounds):
            for start in range(0, len(users), BATCH):
                batch = users[start : start + BATCH]
                if together:
                    await sio.emit_many([(user, "balance:update", push(version)) for user in batch])
                else:
                    for user in batch:
                        await sio.emit("balance:update", push(version), room=user)
                await asyncio.sleep(0)

    async def received() -> int:
        return sio.stats().redis_received

    async with contextlib.AsyncExitStack() as stack:
        port = None
        await sio.start()
        if role == "web":
            server = await stack.enter_async_context(serve(web.Application(), sio, host="127.0.0.1", port=0))
            port = server.sockets[0].getsockname()[1]

        async def ready() -> int | None:
            return port

        await obey({"ready": ready, "broadcast": broadcast, "rooms": rooms, "received": received})
        await sio.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["web", "emitter"])
    parser.add_argument("--redis")
    chosen = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for answers
    open_files_to_the_limit()
    uvloop.run(main(chosen.role, chosen.redis))
