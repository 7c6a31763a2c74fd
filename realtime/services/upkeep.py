"""The background jobs as one table, and the ones that keep the house: partitions, expiry, the nightly proof."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from ledger.verify import verify
from realtime.adapters import agora_presence_store, idempotency_store, purchases_store
from realtime.services.agora_events import TASK as LOOK_AFTER_LEFT
from realtime.services.agora_events import TASK_MISSING as LOOK_AFTER_MISSING
from realtime.services.agora_events import AgoraEvents
from realtime.services.calls import Transactions
from realtime.services.jobs import Jobs, Periodic
from realtime.services.kicks import TASK as PUT_OUT
from realtime.services.kicks import Kicks
from realtime.services.purchase_recovery import PurchaseRecovery
from realtime.services.refunds import Refunds
from realtime.services.stripe_events import StripeEvents

log = structlog.get_logger()

EXPIRE_BATCH = 1000
MONTHS_AHEAD = 3


class Upkeep:
    def __init__(self, db: Transactions) -> None:
        self._db = db

    async def expire(self) -> None:
        """Remove keys, allowances and events that are over, in batches."""
        expired = EXPIRE_BATCH
        while expired == EXPIRE_BATCH:
            async with self._db.connection() as conn:
                expired = await idempotency_store.expire(conn, EXPIRE_BATCH)
        async with self._db.connection() as conn:
            await purchases_store.expire(conn)
            await agora_presence_store.expire(conn)

    async def make_partitions(self) -> None:
        """Make the ledger's partitions of the months to come."""
        async with self._db.connection() as conn:
            await conn.execute("SELECT ledger_make_partitions($1)", MONTHS_AHEAD)

    @staticmethod
    async def verify(database_url: str) -> None:
        """Prove the ledger, and say loudly what is broken. It reads whole tables, on a thread of its own."""
        verdict = await asyncio.to_thread(verify, database_url)
        for finding in verdict.findings:
            log.error("the ledger is broken", what=finding.what, problem=finding.problem)
        log.info("ledger verified", findings=len(verdict.findings), journals=verdict.journals, entries=verdict.entries)


def background_jobs(
    database_url: str,
    *,
    recovery: PurchaseRecovery,
    refunds: Refunds,
    events: StripeEvents,
    agora_events: AgoraEvents,
    kicks: Kicks,
    upkeep: Upkeep,
) -> Jobs:
    """Every job there is: those that are queued with what needs them, and those that come by the clock (UTC)."""
    return Jobs(
        database_url,
        tasks={
            "check_purchase": recovery.check,
            "cancel_payment": recovery.cancel_payment,
            "check_refund": refunds.check,
            "apply_stripe_event": events.apply_kept,
            LOOK_AFTER_LEFT: agora_events.look_after_left,
            LOOK_AFTER_MISSING: agora_events.look_after_missing,
            PUT_OUT: kicks.kick,
        },
        periodic=[
            Periodic("check_due_purchases", "* * * * *", recovery.check_due),
            Periodic("check_due_refunds", "* * * * *", refunds.check_due),
            Periodic("apply_pending_events", "* * * * *", events.apply_pending),
            Periodic("expire", "17 * * * *", upkeep.expire),
            Periodic("make_partitions", "23 * * * *", upkeep.make_partitions),
            Periodic("verify_ledger", "41 3 * * *", partial(upkeep.verify, database_url)),
        ],
    )
