"""python-socketio as it comes: `AsyncServer` and `AsyncRedisManager` on aiohttp and uvloop."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import socketio
import uvloop
from aiohttp import web

from scripts.benchmarks.servers import BATCH, EVERYBODY, push
from scripts.tabs.obedience import obey
from scripts.tabs.processes import open_files_to_the_limit


async def main(role: str, redis_url: str | None) -> None:
    manager = socketio.AsyncRedisManager(redis_url, write_only=role == "emitter") if redis_url else None
    sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=manager, cors_allowed_origins="*")
    emit = manager.emit if manager is not None and role == "emitter" else sio.emit

    async def connect(sid: str, _environ: dict[str, Any], auth: dict[str, Any]) -> None:
        for room in auth["rooms"]:
            await sio.enter_room(sid, room)

    sio.on("connect", connect)

    async def broadcast(count: int, first: int) -> None:
        for version in range(first, first + count):
            await emit("earnings:update", push(version), room=EVERYBODY)
            await asyncio.sleep(0)

    async def rooms(users: list[str], rounds: int, first: int, *, together: bool) -> None:
        assert not together, "it has no such thing"
        for version in range(first, first + rounds):
            for number, user in enumerate(users):
                await emit("balance:update", push(version), room=user)
                if number % BATCH == BATCH - 1:
                    await asyncio.sleep(0)

    runner = web.AppRunner(app := web.Application(), access_log=None)
    sio.attach(app)
    port = None
    if role == "web":
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4_096)
        await site.start()
        port = runner.addresses[0][1]

    async def ready() -> int | None:
        return port

    await obey({"ready": ready, "broadcast": broadcast, "rooms": rooms})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["web", "emitter"])
    parser.add_argument("--redis")
    chosen = parser.parse_args()
    open_files_to_the_limit()
    uvloop.run(main(chosen.role, chosen.redis))
