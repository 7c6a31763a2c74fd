"""The worker process: metering and jobs without sockets. Its pushes reach the tabs through Redis."""

from __future__ import annotations

import structlog

from realtime.composition import background, build_core, new_instance_id, observers, servers, stop_on_signals
from realtime.config import Settings
from realtime.fanout import FanoutServer

log = structlog.get_logger()


async def run_worker(settings: Settings) -> None:
    """Meter until SIGTERM or Ctrl-C; the batch in hand is finished first."""
    stopping = stop_on_signals()
    instance_id = new_instance_id()
    async with (
        observers(settings, instance_id) as watched,
        servers(settings, watched) as (db, redis_client, http_client),
    ):
        assert settings.redis_url
        sio = FanoutServer(redis_url=settings.redis_url, allowed_origins=[], instance_id=instance_id)
        core = build_core(settings, instance_id, sio, db, redis_client, http_client, watched)
        async with background(core, meter=True):
            await sio.start()
            log.info("working", instance=instance_id)
            await stopping.wait()
            log.info("draining")
        await sio.stop()
    log.info("stopped")
