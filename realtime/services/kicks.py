"""Putting both sides of an unpaid call out of its Agora channel: a job, since Agora may be slow or away.

The video token runs out by itself; this is for SDKs that do not honour it. Agora's limit (about ten requests a second)
is met by the job's pauses between tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from realtime.adapters.agora_rest import AgoraRest
from realtime.domain.call import AGORA_UID, Call
from realtime.services import jobs

log = structlog.get_logger()

TASK = "put_out"
BANNED_S = 600
"""A channel is one call's own, so keeping its two sides out of it costs nobody anything."""


class NotPutOut(Exception):
    """Agora did not do it, and may later."""


class Kicks:
    def __init__(self, agora: AgoraRest | None) -> None:
        self._agora = agora

    async def put_out(self, conn: Any, calls: Sequence[Call]) -> None:
        """Have both sides put out of the calls' channels once the transaction on `conn` has committed."""
        if self._agora is not None and calls:
            sides = [{"channel": call.channel, "uid": uid} for call in calls for uid in AGORA_UID.values()]
            await jobs.defer_many(conn, TASK, sides)

    async def kick(self, channel: str, uid: int) -> None:
        """Put one side out. Raises NotPutOut if trying again can help."""
        assert self._agora is not None, "jobs of this kind are made only where Agora's credentials are set"
        outcome = await self._agora.kick(channel, uid, BANNED_S)
        if outcome.retryable:
            raise NotPutOut(outcome.code)
        log.info("put out of the channel", channel=channel, uid=uid, outcome=outcome.code)
