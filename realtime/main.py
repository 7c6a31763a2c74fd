"""The web process: everything is built here once, started in order and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import fields
from typing import Any

import aiohttp
import redis
import structlog
from aiohttp import web

from realtime.adapters.logs import in_words
from realtime.adapters.postgres import UNREACHABLE
from realtime.adapters.presence import Presence
from realtime.adapters.transactions import Database
from realtime.composition import (
    Core,
    StartFailed,
    background,
    build_core,
    new_instance_id,
    observers,
    servers,
    stop_on_signals,
)
from realtime.config import Settings
from realtime.domain.addresses import networks
from realtime.edge import bff, documents, http, operations, payments, routes, webhooks
from realtime.edge.access import access
from realtime.edge.authentication import Authenticator
from realtime.edge.csp import stand_in_origin
from realtime.edge.csp_reports import CspReports
from realtime.edge.identity import SharedSecret, verifier_of
from realtime.edge.middlewares import middlewares
from realtime.edge.pages import Pages
from realtime.edge.reference import reference
from realtime.edge.routes import Route
from realtime.edge.security_headers import security_headers
from realtime.edge.sockets import Sockets
from realtime.fanout import FanoutServer, serve
from realtime.fanout.limits import Limits
from realtime.processes import Place
from realtime.services.sessions import Sessions

log = structlog.get_logger()

PROBE_TIMEOUT_S = 2.0


async def run_web(settings: Settings, place: Place | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain: no new calls, tabs told, the meter stopped between batches.

    `place` is that among the processes behind the port, where there are several.
    """
    stopping = stop_on_signals()
    if place is not None:
        place.when_alone(stopping.set)
    instance_id = new_instance_id()
    async with observers(settings, instance_id) as watched, servers(settings, watched) as (db, redis_client, client):
        assert settings.redis_url
        sio = FanoutServer(
            redis_url=settings.redis_url,
            allowed_origins="*" if "*" in settings.allowed_origins else settings.allowed_origins,
            instance_id=instance_id,
            limits=Limits(proxies=networks(settings.trusted_proxies)),
            on_gap=lambda: sockets.send_snapshots(),  # noqa: PLW0108  (built below)
        )
        core = build_core(settings, instance_id, sio, db, redis_client, client, watched)
        core.operations.read_also(lambda: core.metrics.fanout(sio.stats()))
        authenticator = Authenticator(
            verifier_of(settings, _fetch_json(client)),
            Sessions(redis_client),
            secure_cookies=settings.production,
            allowed_origins=settings.allowed_origins,
        )
        sockets = Sockets(
            sio,
            authenticator=authenticator,
            calls=core.calls,
            wallets=core.wallets,
            attendance=core.attendance,
            operations=core.operations,
            metrics=core.metrics,
            tracing=core.tracing,
        )
        app = build_http(core, authenticator, sio)
        await sio.start()
        try:
            # What bills and works in the background ends before the fan-out: it has news to tell to the last.
            async with background(core, meter=settings.meter_in_web), contextlib.AsyncExitStack() as listening:
                try:
                    siblings = place.directory if place is not None else None
                    await listening.enter_async_context(
                        serve(app, sio, host=settings.host, port=settings.port, siblings=siblings)
                    )
                except OSError as error:
                    what = f"HOST, PORT: {settings.host}:{settings.port} cannot be listened on"
                    raise StartFailed(what, error) from error
                if place is not None:
                    log.info("a worker serves", instance=instance_id, pid=os.getpid(), socket_ids=sio.eio.tag)
                    place.serves()
                else:
                    log.info("serving", url=f"http://{settings.host}:{settings.port}", instance=instance_id)
                await stopping.wait()
                log.info("draining")
                await sockets.drain()
        finally:
            await sio.stop()
        with contextlib.suppress(Exception):
            await core.presence.withdraw()
    if place is not None:
        place.leave()
    log.info("stopped")


def build_http(core: Core, authenticator: Authenticator, sio: FanoutServer) -> web.Application:
    settings = core.settings
    passed = [access(core.metrics, core.tracing), *middlewares(settings), Pages().middleware]
    app = web.Application(middlewares=passed, client_max_size=routes.MAX_BODY_BYTES)
    app.on_response_prepare.append(security_headers(settings))
    routes.mount(app, route_table(core, authenticator, sio), authenticator)
    return app


def route_table(core: Core, authenticator: Authenticator, sio: FanoutServer) -> list[Route]:
    """Every HTTP route of this server, those of its documents included."""
    settings = core.settings
    table = [
        *http.health_routes(
            {"postgresql": _postgres_probe(core.db), "redis": _redis_probe(core.redis, core.presence, sio)}
        ),
        *bff.session_routes(settings, authenticator, sio.disconnect),
        *http.call_routes(core.calls),
        *http.wallet_routes(core.wallets),
        *http.people_routes(core.people),
        *operations.operations_routes(core.operations, core.metrics),
        *CspReports(core.operations.csp_report, networks(settings.trusted_proxies)).routes(),
        *payments.payment_routes(settings, core.money.payments),
        *payments.admin_routes(settings, core.money.grants, core.money.refunds),
        *webhooks.stripe_routes(settings, core.money.events),
        *webhooks.agora_routes(settings, core.agora_events),
    ]
    if not settings.production and settings.jwt_secret:
        table += http.development_routes(SharedSecret(settings.jwt_secret))
    if stand_in_origin(settings):
        table += payments.stand_in_routes(core.money.gateway)
    return table + documents.document_routes(table, secure_cookies=authenticator.secure_cookies)


class _Unbuilt:
    """Stands for a service while only the documents are made: the rows refer to services and call none."""

    def __getattr__(self, _name: str) -> _Unbuilt:
        return self


def unbuilt_routes(settings: Settings) -> list[Route]:
    """The rows of a server with these settings, to be read and not called."""
    unbuilt: Any = _Unbuilt()
    core = Core(**({part.name: unbuilt for part in fields(Core)} | {"settings": settings}))
    return route_table(core, Authenticator(unbuilt, unbuilt, secure_cookies=settings.production), unbuilt)


DOCUMENTS = ("openapi", "asyncapi", "reference")


def document(settings: Settings, kind: str) -> str:
    """One of DOCUMENTS, of a server with these settings, without building one."""
    if kind == "asyncapi":
        return documents.text_of(documents.asyncapi())
    openapi = documents.openapi(unbuilt_routes(settings), secure_cookies=settings.production)
    if kind == "reference":
        return reference(Settings, openapi, documents.asyncapi())
    return documents.text_of(openapi)


def _postgres_probe(db: Database) -> http.Probe:
    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), db.connection() as conn:
                await conn.fetchval("SELECT 1")
        except UNREACHABLE as error:
            return in_words(error)
        return None

    return probe


def _redis_probe(client: Any, presence: Presence, sio: FanoutServer) -> http.Probe:
    """A Redis that answers and takes no writes, or whose pushes do not arrive here, is none to serve with."""

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await client.ping()
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            return in_words(error)
        return presence.trouble or sio.deaf()

    return probe


def _fetch_json(client: aiohttp.ClientSession) -> Any:
    async def fetch(url: str) -> Any:
        async with client.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    return fetch
