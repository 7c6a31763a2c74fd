"""Agora's notifications: who left the channel for good, or never came while the other side waits there, ends the call.

Either has the grace of a lost connection for it. Its tabs may still be connected here (a closed video page beside an
open one), so this is how a call nobody attends is noticed. That a side never came is believed only once Agora has told
of the other's join: without any notification nobody knows. Leaves that pass by themselves end nothing; the order and
number of deliveries do not matter. With BILLING_ROUNDING=second the seconds not used come back, as after any end.
"""

from __future__ import annotations

from uuid import UUID

import structlog

from realtime.adapters import agora_presence_store, calls_store
from realtime.domain import errors
from realtime.domain.agora_presence import Joined, Left, UserEvent, observe
from realtime.domain.call import AGORA_UID
from realtime.domain.transitions import Status
from realtime.services import jobs
from realtime.services.calls import Calls, Transactions

log = structlog.get_logger()

TASK = "look_after_left"
TASK_MISSING = "look_after_missing"
PREFIX = "call_"


class AgoraEvents:
    def __init__(self, *, db: Transactions, calls: Calls, reconnect_grace_s: int) -> None:
        self._db = db
        self._calls = calls
        self._grace_s = reconnect_grace_s

    async def receive(self, event: UserEvent | None) -> str:
        """Observe one notification; answers what became of it."""
        call_id = call_of(event.channel) if event is not None else None
        if event is None or call_id is None or event.uid not in AGORA_UID.values():
            return "ignored"
        async with self._db.begin() as conn:
            call = await calls_store.get(conn, call_id)
            if call is None or call.status is Status.ENDED:
                return "ignored"
            await agora_presence_store.lock(conn, event.channel, event.uid)
            before = await agora_presence_store.get(conn, event.channel, event.uid)
            after, effect = observe(before, event)
            if after is None or after == before:
                return "ignored"
            await agora_presence_store.store(conn, event.channel, event.uid, after)
            match effect:
                case Left(certain=True):
                    await jobs.defer(
                        conn,
                        TASK,
                        in_s=self._grace_s,
                        channel=event.channel,
                        uid=event.uid,
                        client_seq=after.client_seq,
                    )
                    outcome = "left"
                case Left():
                    outcome = "left, perhaps"
                case Joined():
                    for uid in AGORA_UID.values():
                        if await agora_presence_store.was_never_there(conn, event.channel, uid):
                            await jobs.defer(conn, TASK_MISSING, in_s=self._grace_s, channel=event.channel, uid=uid)
                    outcome = "joined"
                case _:
                    outcome = "observed"
        log.info("agora presence", call_id=str(call_id), uid=event.uid, said=outcome, reason=event.reason)
        return outcome

    async def look_after_left(self, channel: str, uid: int, client_seq: int) -> None:
        """End the call whose side has been out of its channel since that leave, for the whole grace."""
        async with self._db.connection() as conn:
            gone = await agora_presence_store.is_gone(conn, channel, uid, client_seq)
        if gone:
            await self._end(channel)

    async def look_after_missing(self, channel: str, uid: int) -> None:
        """End the call one side of which has waited in the channel for the whole grace and the other never came."""
        async with self._db.connection() as conn:
            missing = await agora_presence_store.was_never_there(conn, channel, uid)
        if missing:
            await self._end(channel)

    async def _end(self, channel: str) -> None:
        if (call_id := call_of(channel)) is not None:
            try:
                await self._calls.vanish(call_id)
            except errors.Refused as refused:
                log.info("a call did not end by its channel", call_id=str(call_id), code=refused.code)


def call_of(channel: str) -> UUID | None:
    """The call a channel is named for; None for a channel that is none of ours."""
    digits = channel.removeprefix(PREFIX)
    try:
        return UUID(hex=digits) if channel.startswith(PREFIX) and len(digits) == 32 else None
    except ValueError:
        return None
