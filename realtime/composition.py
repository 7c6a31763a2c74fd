"""What the web process and the worker both are made of: connections, services and the loops beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from ledger.end_signals import ENDS, end, release_signals
from realtime.adapters.agora_rest import AgoraRest
from realtime.adapters.agora_tokens import TokenIssuer
from realtime.adapters.limiter import Limiter
from realtime.adapters.metrics import Metrics
from realtime.adapters.postgres import UNREACHABLE, open_pool
from realtime.adapters.presence import Presence
from realtime.adapters.stripe_gateway import StripeGateway
from realtime.adapters.tracing import TracedPushes, Tracing
from realtime.adapters.transactions import Database
from realtime.adapters.vendor_calls import Traced
from realtime.config import Settings
from realtime.services.agora_events import AgoraEvents
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls
from realtime.services.charging import Charging
from realtime.services.grants import Grants
from realtime.services.idempotency import Idempotency
from realtime.services.jobs import Jobs
from realtime.services.kicks import Kicks
from realtime.services.metering import Meter
from realtime.services.money_limits import MoneyLimits
from realtime.services.operations import Operations
from realtime.services.payments import Payments
from realtime.services.people import People
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.purchase_recovery import PurchaseRecovery
from realtime.services.pushes import Pushes
from realtime.services.refunds import Refunds
from realtime.services.stripe_events import StripeEvents
from realtime.services.upkeep import Upkeep, background_jobs
from realtime.services.wallets import Wallets

log = structlog.get_logger()

REDIS_TIMEOUT_S = 2.0
REDIS_CONNECTIONS = 50
REDIS_TURN_S = 5.0
STOP_WITHIN_S = 10.0
CANCELLED_WITHIN_S = 2.0
CLOSE_WITHIN_S = 2.0
LAST_SPANS_S = 3.0
SCHEMA_REVISION = "0009"
"""The oldest this version works on: what it needs that came last is in it."""


@dataclass(slots=True)
class Money:
    """What moves money."""

    gateway: StripeGateway
    payments: Payments
    recovery: PurchaseRecovery
    refunds: Refunds
    grants: Grants
    events: StripeEvents


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
    people: People
    operations: Operations
    metrics: Metrics
    tracing: Tracing
    money: Money
    agora_events: AgoraEvents
    jobs: Jobs


class StartFailed(Exception):
    """One line for the operator: what is wrong, with the setting it comes from, and what was met."""

    def __init__(self, what: str, met: BaseException | str) -> None:
        super().__init__(f"{what}: {_met(met)}")


def _met(met: BaseException | str) -> str:
    match met:
        case OSError(errno=int(number), filename=None) if number > 0:
            return os.strerror(number)
    return str(met) or type(met).__name__


def new_instance_id() -> str:
    return f"{socket.gethostname()[:32]}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Observers:
    """What everything else is watched with."""

    metrics: Metrics
    tracing: Tracing


@asynccontextmanager
async def observers(settings: Settings, instance_id: str) -> AsyncIterator[Observers]:
    endpoint = settings.otel_exporter_otlp_endpoint
    tracing = Tracing.to_otlp(endpoint, instance_id=instance_id) if endpoint else Tracing.off()
    try:
        yield Observers(Metrics(), tracing)
    finally:
        # What has not been sent yet is sent, unless the collector keeps it waiting.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(tracing.shutdown), LAST_SPANS_S)


@asynccontextmanager
async def servers(settings: Settings, watched: Observers) -> AsyncIterator[tuple[Database, Any, aiohttp.ClientSession]]:
    """Connections to PostgreSQL, Redis and HTTP; PostgreSQL must answer for the start to succeed."""
    assert settings.database_url, "the settings name a database by now"
    assert settings.redis_url, "the settings name a Redis by now"
    async with contextlib.AsyncExitStack() as stack:
        try:
            pool = await open_pool(
                settings.database_url, max_size=settings.database_pool_size, init=watched.tracing.watch_connection
            )
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            raise StartFailed("DATABASE_URL: PostgreSQL lets nobody in", error) from error
        stack.push_async_callback(_close_pool, pool)
        # A newer one is fine: a release migrates while older processes still start.
        migrated = await pool.fetchval("SELECT to_regclass('alembic_version')") is not None
        revision = "SELECT coalesce(max(version_num), '') FROM alembic_version"
        if not migrated or await pool.fetchval(revision) < SCHEMA_REVISION:
            raise StartFailed("DATABASE_URL: the database is not migrated", "python -m ledger migrate up")
        # The usual pool refuses what its connections are too few for, and that would be taken for an outage of Redis: a
        # burst of requests waits for its turn instead.
        connections = redis.asyncio.BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=REDIS_CONNECTIONS,
            timeout=REDIS_TURN_S,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            # After a restart of Redis every connection of the pool is dead, and finds out when it is used next.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        client = redis.asyncio.Redis.from_pool(connections)
        stack.push_async_callback(client.aclose)
        http_client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Database(pool, watched.metrics.waiting_for_connection), client, http_client


async def _close_pool(pool: Any) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(pool.close(), CLOSE_WITHIN_S)
    pool.terminate()


def build_core(
    settings: Settings,
    instance_id: str,
    out: Pushes,
    db: Database,
    redis_client: Any,
    http_client: aiohttp.ClientSession,
    watched: Observers,
) -> Core:
    metrics, tracing = watched.metrics, watched.tracing
    if tracing.on:
        out = TracedPushes(out, tracing)
    presence = Presence(redis_client, instance_id)
    limiter = Limiter(redis_client)
    issuer = TokenIssuer(settings.agora_app_id, settings.agora_app_certificate, settings.agora_token_version)
    wallets = Wallets(db=db, out=out, default_rate_tokens_per_period=settings.default_rate_tokens_per_period)
    money = build_money(settings, db, limiter, wallets, out, watched)
    agora: Any = _agora_rest(settings, http_client)
    if agora is not None:
        agora = Traced("agora", agora, tracing, metrics)
    kicks = Kicks(agora)
    calls = Calls(
        db=db,
        presence=presence,
        limiter=limiter,
        issuer=issuer,
        out=out,
        put_out=kicks.job,
        settings=settings,
        observer=metrics,
    )
    operations = Operations(db=db, pool=db.pool, redis=redis_client, presence=presence, metrics=metrics)
    agora_events = AgoraEvents(db=db, calls=calls, reconnect_grace_s=settings.reconnect_grace_seconds)
    assert settings.database_url
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
        meter=Meter(db=db, calls=calls, issuer=issuer, out=out, put_out=kicks.job, observer=metrics),
        attendance=Attendance(
            db=db, presence=presence, calls=calls, reconnect_grace_s=settings.reconnect_grace_seconds
        ),
        people=People(db=db, presence=presence, default_rate_tokens_per_period=settings.default_rate_tokens_per_period),
        operations=operations,
        metrics=metrics,
        tracing=tracing,
        wallets=wallets,
        money=money,
        agora_events=agora_events,
        jobs=background_jobs(
            settings.database_url,
            recovery=money.recovery,
            refunds=money.refunds,
            events=money.events,
            agora_events=agora_events,
            kicks=kicks,
            upkeep=Upkeep(db),
        ),
    )


def build_money(
    settings: Settings, db: Database, limiter: Limiter, wallets: Wallets, out: Pushes, watched: Observers
) -> Money:
    assert settings.stripe_secret_key, "the settings name a Stripe account or its stand-in by now"
    metrics = watched.metrics
    stripe = StripeGateway(secret_key=settings.stripe_secret_key, api_base=settings.stripe_api_base, observer=metrics)
    gateway: Any = Traced("stripe", stripe, watched.tracing)
    limits = MoneyLimits(
        limiter, per_minute=settings.money_ops_per_minute, daily_cents=settings.daily_spend_limit_cents
    )
    keys = Idempotency(db)
    records = PurchaseRecords(db=db, limits=limits, out=out, observer=metrics)
    charging = Charging(gateway, records)
    return Money(
        gateway=stripe,
        payments=Payments(
            db=db,
            charging=charging,
            records=records,
            limits=limits,
            idempotency=keys,
            tokens_per_usd=settings.tokens_per_usd,
        ),
        recovery=PurchaseRecovery(db=db, gateway=gateway, charging=charging, records=records),
        refunds=Refunds(db=db, gateway=gateway, limits=limits, idempotency=keys, out=out),
        grants=Grants(db=db, wallets=wallets, limits=limits, idempotency=keys, out=out),
        events=StripeEvents(db=db, gateway=gateway, records=records, out=out, observer=metrics),
    )


def _agora_rest(settings: Settings, session: aiohttp.ClientSession) -> AgoraRest | None:
    """Agora's channel management, where its credentials are set."""
    if not settings.agora_customer_id or not settings.agora_customer_secret:
        return None
    return AgoraRest(
        session,
        app_id=settings.agora_app_id,
        customer_id=settings.agora_customer_id,
        customer_secret=settings.agora_customer_secret,
        base=settings.agora_api_base,
    )


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM, Ctrl-C or a terminal that closes; a second one ends the process at once, as people expect."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        stopping.set()
        loop.remove_signal_handler(number)
        signal.signal(number, end)

    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
    release_signals()
    return stopping


@asynccontextmanager
async def background(core: Core, *, meter: bool) -> AsyncIterator[None]:
    """The loops beside the requests, with `meter` the meter and the jobs. They end before their connections do."""
    tasks = [
        asyncio.create_task(core.attendance.run(), name="attendance"),
        asyncio.create_task(core.operations.run(), name="operations"),
    ]
    if meter:
        tasks.append(asyncio.create_task(core.meter.run(), name="meter"))
        tasks.append(asyncio.create_task(core.jobs.run(), name="jobs"))
    try:
        yield
    finally:
        core.meter.stop()
        core.attendance.stop()
        core.operations.stop()
        core.jobs.stop()
        _, late = await asyncio.wait(tasks, timeout=STOP_WITHIN_S)
        if late:
            log.warning("stopping what did not stop by itself", tasks=sorted(task.get_name() for task in late))
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=CANCELLED_WITHIN_S)
        await core.money.gateway.close()
