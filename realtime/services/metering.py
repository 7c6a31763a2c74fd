"""The meter: bills every call whose next period has started, on any instance, without a leader.

Each round asks PostgreSQL for one batch of due calls nobody else holds (`FOR UPDATE SKIP LOCKED`); the same statement
debits them, advances their clocks and answers what there is to tell. Rounds follow at once while batches come back
full or a call is several periods behind; then the meter sleeps until the next period starts, at most `IDLE_S`, so that
a call somebody else's meter was killed over is picked up long before its token runs out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import structlog

from realtime.adapters import calls_store
from realtime.adapters.postgres import UNREACHABLE
from realtime.domain import errors
from realtime.domain.transitions import Status
from realtime.services.calls import Calls, PutOut, Transactions, news_of_billed
from realtime.services.pushes import Push, Pushes, TokenIssuer

log = structlog.get_logger()

BATCH = 500
IDLE_S = 0.25
AFTER_FAILURE_S = 0.5
RINGS_A_ROUND = 100


@dataclass(slots=True)
class MeterStats:
    """Counted since the start; the metrics page reads it."""

    outcomes: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    last_batch_size: int = 0
    last_batch_s: float = 0.0
    due_lag_s: float = 0.0
    """How far behind its start the latest billed period was when it was debited."""
    failures: int = 0


class Observer(Protocol):
    def batch(self, *, size: int, seconds: float, lag_s: float) -> None: ...


class Meter:
    def __init__(self, *, db: Transactions, calls: Calls, issuer: TokenIssuer, out: Pushes, put_out: PutOut) -> None:
        self._db = db
        self._calls = calls
        self._issuer = issuer
        self._out = out
        self._put_out = put_out
        self._stopping = asyncio.Event()
        self.stats = MeterStats()

    async def run(self) -> None:
        """Meter until `stop`; a database that is away is waited for, and said once."""
        away = False
        while not self._stopping.is_set():
            try:
                pause_s = await self.round()
                if away:
                    log.info("metering again")
                away = False
            except UNREACHABLE as error:
                self.stats.failures += 1
                if not away:
                    log.warning("metering waits for PostgreSQL", error=repr(error))
                away, pause_s = True, AFTER_FAILURE_S
            except Exception:
                self.stats.failures += 1
                log.exception("a round of the meter failed")
                pause_s = AFTER_FAILURE_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    def stop(self) -> None:
        """Finish the batch in hand, then stop."""
        self._stopping.set()

    async def round(self) -> float:
        """Bill all that is due and end what has rung out; answers how long nothing more is to do, in seconds."""
        while not self._stopping.is_set():
            if await self._batch() == 0:
                break
        async with self._db.connection() as conn:
            rung_out = await calls_store.overdue_rings(conn, RINGS_A_ROUND)
            next_due_in_s = await calls_store.next_due_in_s(conn)
        for call_id in rung_out:
            with suppress(errors.Refused):
                await self._calls.expire(call_id)
        return min(IDLE_S, max(0.0, next_due_in_s)) if next_due_in_s is not None else IDLE_S

    async def _batch(self) -> int:
        started = time.perf_counter()
        async with self._db.connection() as conn:
            billed = await calls_store.bill_due(conn, BATCH)
            if not billed:
                return 0
            for one in billed:
                if one.call.status is Status.ENDED:
                    await self._put_out(conn, one.call)
        now = datetime.now(UTC)
        news: list[Push] = []
        for one in billed:
            self.stats.outcomes[one.outcome] += 1
            news += news_of_billed(one, self._issuer, now)
            if one.call.status is Status.ENDED:
                log.info(
                    "call ended",
                    call_id=str(one.call.id),
                    reason=one.call.end_reason,
                    periods_billed=one.call.periods_billed,
                    tokens_spent=one.call.tokens_spent,
                )
        await self._out.emit_many(news)
        self.stats.batches += 1
        self.stats.last_batch_size = len(billed)
        self.stats.last_batch_s = time.perf_counter() - started
        return len(billed)
