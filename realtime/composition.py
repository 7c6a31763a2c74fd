"""What the web process and the worker both are made of: connections, services and the loops beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import redis.asyncio

from realtime.adapters.agora_tokens import TokenIssuer
from realtime.adapters.limiter import Limiter
from realtime.adapters.postgres import open_pool
from realtime.adapters.presence import Presence
from realtime.adapters.transactions import Database
from realtime.config import Settings
from realtime.domain.call import Call
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls
from realtime.services.metering import Meter
from realtime.services.pushes import Pushes
from realtime.services.wallets import Wallets

REDIS_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Core:
    """What the web process and the worker both have: the servers they talk to, the calls and the meter."""

    settings: Settings
    instance_id: str
    db: Database
    redis: Any
    http_client: aiohttp.ClientSession
    presence: Presence
    limiter: Limiter
    out: Pushes
    calls: Calls
    meter: Meter
    attendance: Attendance
    wallets: Wallets


def new_instance_id() -> str:
    return f"{socket.gethostname()[:32]}-{secrets.token_hex(4)}"


@asynccontextmanager
async def servers(settings: Settings) -> AsyncIterator[tuple[Database, Any, aiohttp.ClientSession]]:
    """Connections to PostgreSQL, Redis and HTTP; PostgreSQL must answer for the start to succeed."""
    assert settings.database_url, "the settings name a database by now"
    assert settings.redis_url, "the settings name a Redis by now"
    async with contextlib.AsyncExitStack() as stack:
        pool = await open_pool(settings.database_url, max_size=settings.database_pool_size)
        stack.push_async_callback(_close_pool, pool)
        client = redis.asyncio.from_url(
            settings.redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )
        stack.push_async_callback(client.aclose)
        http_client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Database(pool), client, http_client


async def _close_pool(pool: Any) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(pool.close(), 5)
    pool.terminate()


def build_core(
    settings: Settings,
    instance_id: str,
    out: Pushes,
    db: Database,
    redis_client: Any,
    http_client: aiohttp.ClientSession,
) -> Core:
    presence = Presence(redis_client, instance_id)
    limiter = Limiter(redis_client)
    issuer = TokenIssuer(settings.agora_app_id, settings.agora_app_certificate, settings.agora_token_version)

    async def put_out(conn: Any, call: Call) -> None:
        return

    calls = Calls(db=db, presence=presence, limiter=limiter, issuer=issuer, out=out, put_out=put_out, settings=settings)
    return Core(
        settings=settings,
        instance_id=instance_id,
        db=db,
        redis=redis_client,
        http_client=http_client,
        presence=presence,
        limiter=limiter,
        out=out,
        calls=calls,
        meter=Meter(db=db, calls=calls, issuer=issuer, out=out, put_out=put_out),
        attendance=Attendance(
            db=db, presence=presence, calls=calls, reconnect_grace_s=settings.reconnect_grace_seconds
        ),
        wallets=Wallets(db=db, out=out, default_rate_tokens_per_period=settings.default_rate_tokens_per_period),
    )


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM or Ctrl-C; a second one ends the process at once, as people expect."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        stopping.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stopping


@asynccontextmanager
async def background(core: Core, *, meter: bool) -> AsyncIterator[None]:
    """The loops beside the requests. They end before the connections they use are closed."""
    tasks = [asyncio.create_task(core.attendance.run(), name="attendance")]
    if meter:
        tasks.append(asyncio.create_task(core.meter.run(), name="meter"))
    try:
        yield
    finally:
        core.meter.stop()
        core.attendance.stop()
        await asyncio.wait(tasks, timeout=10)
