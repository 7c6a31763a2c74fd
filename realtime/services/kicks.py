"""Putting both sides of a call out of its Agora channel where their tokens outlive what is paid: a job, since Agora may
be slow or away.

The video token runs out by itself; this is for SDKs that do not honour it. Agora's limit (about ten requests a second)
is met by the job's pauses between tries.
"""

from __future__ import annotations

import structlog

from realtime.adapters.agora_rest import AgoraRest
from realtime.adapters.calls_store import PutOutJob
from realtime.services import jobs

log = structlog.get_logger()

TASK = "put_out"
BANNED_S = 2 * 3600 + 60
"""Longer than any token of theirs lives: a period and a grace, of an hour each at most. A channel is one call's own, so
keeping its two sides out of it costs nobody anything."""


class NotPutOut(Exception):
    """Agora did not do it, and may later."""


class Kicks:
    def __init__(self, agora: AgoraRest | None) -> None:
        self._agora = agora

    @property
    def job(self) -> PutOutJob | None:
        """What the statement that ends such a call queues for each side; None where Agora cannot be asked."""
        return PutOutJob(jobs.QUEUE, TASK) if self._agora is not None else None

    async def kick(self, channel: str, uid: int) -> None:
        """Put one side out. Raises NotPutOut if trying again can help."""
        assert self._agora is not None, "jobs of this kind are made only where Agora's credentials are set"
        outcome = await self._agora.kick(channel, uid, BANNED_S)
        if outcome.retryable:
            raise NotPutOut(outcome.code)
        log.info("put out of the channel", channel=channel, uid=uid, outcome=outcome.code)
