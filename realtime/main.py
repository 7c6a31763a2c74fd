"""The web process: everything is built here once, started in order and stopped in the opposite order."""

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
import structlog
from aiohttp import web

from realtime.adapters.agora_tokens import TokenIssuer
from realtime.adapters.limiter import Limiter
from realtime.adapters.postgres import UNREACHABLE, open_pool
from realtime.adapters.presence import Presence
from realtime.adapters.transactions import Database
from realtime.config import Settings
from realtime.domain.call import Call
from realtime.edge import http, routes
from realtime.edge.authentication import Authenticator
from realtime.edge.identity import SharedSecret, verifier_of
from realtime.edge.middlewares import middlewares
from realtime.edge.sockets import Sockets
from realtime.fanout import FanoutServer, serve
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls
from realtime.services.metering import Meter
from realtime.services.pushes import Pushes
from realtime.services.sessions import Sessions
from realtime.services.wallets import Wallets

log = structlog.get_logger()

REDIS_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 2.0


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

    async def put_out(_conn: Any, _call: Call) -> None:
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


async def run_web(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain: no new calls, tabs told, the meter stopped between batches."""
    stopping = stop_on_signals()
    instance_id = new_instance_id()
    async with servers(settings) as (db, redis_client, http_client):
        assert settings.redis_url
        sio = FanoutServer(
            redis_url=settings.redis_url,
            allowed_origins="*" if "*" in settings.allowed_origins else settings.allowed_origins,
            instance_id=instance_id,
            on_gap=lambda: sockets.send_snapshots(),  # noqa: PLW0108  (built below)
        )
        core = build_core(settings, instance_id, sio, db, redis_client, http_client)
        authenticator = Authenticator(
            verifier_of(settings, _fetch_json(http_client)),
            Sessions(redis_client),
            secure_cookies=settings.production,
        )
        sockets = Sockets(
            sio, authenticator=authenticator, calls=core.calls, wallets=core.wallets, attendance=core.attendance
        )
        app = build_http(core, authenticator, sio)
        async with background(core, meter=settings.meter_in_web):
            await sio.start()
            try:
                async with serve(app, sio, host=settings.host, port=settings.port):
                    log.info("serving", url=f"http://{settings.host}:{settings.port}", instance=instance_id)
                    await stopping.wait()
                    log.info("draining")
                    await sockets.drain()
            finally:
                await sio.stop()
        with contextlib.suppress(Exception):
            await core.presence.withdraw()
    log.info("stopped")


def build_http(core: Core, authenticator: Authenticator, sio: FanoutServer) -> web.Application:
    settings = core.settings
    app = web.Application(middlewares=middlewares(settings), client_max_size=routes.MAX_BODY_BYTES)
    table = [
        *http.health_routes({"postgresql": _postgres_probe(core.db), "redis": _redis_probe(core.redis, sio)}),
        *http.call_routes(core.calls),
        *http.wallet_routes(core.wallets),
        *http.grant_routes(core.wallets),
    ]
    if not settings.production and settings.jwt_secret:
        table += http.development_routes(SharedSecret(settings.jwt_secret))
    routes.mount(app, table, authenticator)
    return app


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


def _postgres_probe(db: Database) -> http.Probe:
    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), db.connection() as conn:
                await conn.fetchval("SELECT 1")
        except UNREACHABLE as error:
            return f"{type(error).__name__}: {error}".removesuffix(": ")
        return None

    return probe


def _redis_probe(client: Any, sio: FanoutServer) -> http.Probe:
    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await client.ping()
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}".removesuffix(": ")
        return sio.deaf()

    return probe


def _fetch_json(client: aiohttp.ClientSession) -> Any:
    async def fetch(url: str) -> Any:
        async with client.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    return fetch
