"""Who is still there: ends calls one side of which has had no tab anywhere for the reconnect grace.

Each instance walks all live calls page by page, and notes in the call's row since when a side has been gone, or that it
is back. A call past the grace is asked about once more before it ends. While Redis cannot be asked, nobody is taken for
gone: an unanswered question is not an absence. And whoever has a tab here is there, whatever another instance has noted
that Redis no longer tells of this one (it is full, or this instance is cut off from it).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from realtime.adapters import calls_store
from realtime.adapters.postgres import UNREACHABLE
from realtime.adapters.presence import BEAT_S, Presence
from realtime.domain import errors
from realtime.services.calls import Calls, Transactions
from realtime.services.one_by_one import one_by_one
from realtime.services.outages import Outage

log = structlog.get_logger()

SWEEP_S = 1.0
CALLS_A_PAGE = 1_000
ENDS_A_SWEEP = 100
_FIRST = UUID(int=0)


class Attendance:
    def __init__(self, *, db: Transactions, presence: Presence, calls: Calls, reconnect_grace_s: int) -> None:
        self._db = db
        self._presence = presence
        self._calls = calls
        self._grace_s = reconnect_grace_s
        self._after = _FIRST
        self._stopping = asyncio.Event()

    async def arrived(self, user_id: str) -> None:
        """A tab of the user has connected. With a server away it still counts here; the beat and sweep catch up."""
        with suppress(*UNREACHABLE, RedisError):
            await self._presence.arrive(user_id)
            async with self._db.connection() as conn:
                await calls_store.mark_present(conn, user_id)

    async def left(self, user_id: str) -> None:
        """A tab of the user has gone; the sweep finds out whether it was the last anywhere."""
        with suppress(RedisError):
            await self._presence.leave(user_id)

    async def run(self) -> None:
        """Beat and sweep until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every(BEAT_S, self._presence.beat, "presence beat"))
            tasks.create_task(self._every(SWEEP_S, self.sweep, "presence sweep"))

    def stop(self) -> None:
        self._stopping.set()

    async def _every(self, seconds: float, step: Any, what: str) -> None:
        outage = Outage(waits=f"{what} waits for its server", again=f"{what} works again")
        while not self._stopping.is_set():
            try:
                await step()
                outage.over()
            except (*UNREACHABLE, RedisError) as error:
                outage.met(error)
            except Exception:
                log.exception(f"{what} failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def sweep(self) -> None:
        """Vouch for the tabs here, look at the next page of live calls, then end those past the grace."""
        await self._vouch()
        async with self._db.connection() as conn:
            page = await calls_store.live_page(conn, self._after, CALLS_A_PAGE)
        self._after = page[-1].id if len(page) == CALLS_A_PAGE else _FIRST
        if page:
            online = await self._presence.online(sorted({user for c in page for user in (c.caller_id, c.callee_id)}))
            seen = [
                replace(c, caller_absent=c.caller_id not in online, callee_absent=c.callee_id not in online)
                for c in page
            ]
            if changed := [now for now, before in zip(seen, page, strict=True) if now != before]:
                async with self._db.connection() as conn:
                    await calls_store.mark_presence(conn, changed)
        async with self._db.connection() as conn:
            overdue = await calls_store.overdue_absences(conn, self._grace_s, ENDS_A_SWEEP)
        sides = {call_id: {caller_id, callee_id} for call_id, caller_id, callee_id in overdue}

        async def end(call_id: UUID) -> None:
            if sides[call_id] <= await self._presence.online(list(sides[call_id])):
                return  # back since; the next look at its page clears the mark
            with suppress(errors.Refused):
                await self._calls.vanish(call_id)

        await one_by_one(
            sides,
            end,
            refused="a call that a side has left cannot be ended",
            held="a call that a side has left cannot be ended while a row of it is held",
        )

    async def _vouch(self) -> None:
        """Take back what is noted of sides that have a tab here: without Redis, since that may be why it was noted."""
        async with self._db.connection() as conn:
            noted = await calls_store.absences(conn, CALLS_A_PAGE)
            here = self._presence.here(user for c in noted for user in (c.caller_id, c.callee_id))
            seen = [
                replace(
                    c,
                    caller_absent=c.caller_absent and c.caller_id not in here,
                    callee_absent=c.callee_absent and c.callee_id not in here,
                )
                for c in noted
            ]
            if changed := [now for now, before in zip(seen, noted, strict=True) if now != before]:
                await calls_store.mark_presence(conn, changed)
