"""The meter: bills every call whose next period has started, on any instance, without a leader.

Each round asks PostgreSQL for one batch of due calls nobody else holds (`FOR UPDATE SKIP LOCKED`); the same statement
debits them, advances their clocks, queues the kicks of those that cannot pay, commits, and answers what there is to
tell. Rounds follow at once while batches come back full or a call is several periods behind; then the meter sleeps
until the next period starts, at most `IDLE_S`, so that a call somebody else's meter was killed over is picked up long
before its token runs out.

A batch the database refuses as a whole is billed call by call, so that one call nobody foresaw does not keep the others
from being metered. It is reported and tried again until its grace is over, and ends then without being billed. The same
holds for a call whose wallet somebody holds: the others do not wait for it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import UUID

import structlog

from realtime.adapters import calls_store
from realtime.adapters.calls_store import PutOutJob
from realtime.adapters.postgres import ROW_HELD, STATEMENT_REFUSED, UNREACHABLE
from realtime.domain import errors
from realtime.domain.transitions import Status
from realtime.services.calls import BillingObserver, Calls, Transactions, Unobserved, log_ended, news_of_billed
from realtime.services.one_by_one import one_by_one
from realtime.services.outages import Outage
from realtime.services.pushes import Push, Pushes, TokenIssuer

log = structlog.get_logger()

BATCH = 500
IDLE_S = 0.25
AFTER_FAILURE_S = 0.5
HELD_ELSEWHERE_S = 0.02
RINGS_A_ROUND = 100


class Meter:
    def __init__(
        self,
        *,
        db: Transactions,
        calls: Calls,
        issuer: TokenIssuer,
        out: Pushes,
        put_out: PutOutJob | None,
        observer: BillingObserver | None = None,
    ) -> None:
        self._observer = observer or Unobserved()
        self._db = db
        self._calls = calls
        self._issuer = issuer
        self._out = out
        self._put_out = put_out
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Meter until `stop`; a database that is away is waited for, and said once."""
        outage = Outage(waits="metering waits for PostgreSQL", again="metering again")
        while not self._stopping.is_set():
            try:
                pause_s = await self.round()
                outage.over()
            except UNREACHABLE as error:
                self._observer.meter_failed()
                outage.met(error)
                pause_s = AFTER_FAILURE_S
            except Exception:
                self._observer.meter_failed()
                log.exception("a round of the meter failed")
                pause_s = AFTER_FAILURE_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    def stop(self) -> None:
        """Finish the batch in hand, then stop."""
        self._stopping.set()

    async def round(self) -> float:
        """Bill all that is due and end what has rung out; answers how long nothing more is to do, in seconds."""
        refused = False
        while not self._stopping.is_set():
            started = time.perf_counter()
            try:
                billed = await self._bill_batch()
            except ROW_HELD as error:
                self._observer.meter_failed()
                log.warning("a batch of the meter waits for a row; its calls are billed one by one", error=str(error))
                refused = True
            except UNREACHABLE:
                raise
            except STATEMENT_REFUSED:
                self._observer.meter_failed()
                log.exception("a batch of the meter was refused; its calls are billed one by one")
                refused = True
            if refused:
                await self._bill_one_by_one()
                break
            await self._tell(billed, started)
            if len(billed) < BATCH and not any(_is_behind(one) for one in billed):
                break
        async with self._db.connection() as conn:
            rung_out = await calls_store.overdue_rings(conn, RINGS_A_ROUND)
            next_due_in_s = await calls_store.next_due_in_s(conn)
        await one_by_one(
            rung_out,
            self._expire,
            refused="a call that has rung out cannot be ended",
            held="a call that has rung out cannot be ended while a row of it is held",
        )
        if refused:
            return AFTER_FAILURE_S
        if next_due_in_s is None:
            return IDLE_S
        # What is due and was not billed just now is in another's hands.
        return min(IDLE_S, next_due_in_s) if next_due_in_s > 0 else HELD_ELSEWHERE_S

    async def _bill_batch(self) -> list[calls_store.Billed]:
        async with self._db.connection() as conn:
            return await calls_store.bill_due(conn, BATCH, self._put_out)

    async def _bill_one_by_one(self) -> None:
        """Those of one batch that the database does not refuse. What was billed is told, also if the rest fails."""
        billed: list[calls_store.Billed] = []
        started = time.perf_counter()
        try:
            async with self._db.connection() as conn:

                async def bill(call_id: UUID) -> None:
                    if (one := await calls_store.bill(conn, call_id, self._put_out)) is not None:
                        billed.append(one)

                await one_by_one(
                    await calls_store.due(conn, BATCH),
                    bill,
                    refused="a call cannot be billed",
                    held="a call cannot be billed while a row of it is held",
                )
        finally:
            await self._tell(billed, started)

    async def _expire(self, call_id: UUID) -> None:
        with suppress(errors.Refused):
            await self._calls.expire(call_id)

    async def _tell(self, billed: list[calls_store.Billed], started: float) -> None:
        """What has been committed, in one message; `started` is when its billing began."""
        if not billed:
            return
        news: list[Push] = []
        for one in billed:
            self._observer.billed(one.outcome)
            news += news_of_billed(one, self._issuer)
            if one.call.status is Status.ENDED:
                log_ended(one.call)
        await self._out.emit_many(news)
        self._observer.meter_batch(
            size=len(billed), seconds=time.perf_counter() - started, lag_s=max(one.lag_s for one in billed)
        )


def _is_behind(billed: calls_store.Billed) -> bool:
    """Whether the call's next period has begun as well."""
    call = billed.call
    return call.status is Status.ACTIVE and call.paid_through is not None and call.paid_through <= billed.at
