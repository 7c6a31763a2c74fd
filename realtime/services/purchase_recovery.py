"""The jobs that look after purchases nobody is working on any more: finished or let go, by what the provider says.

A purchase is due when its `next_check_at` has come; a request that works on it pushes that on. Each purchase has a job
of its own from its first moment, and a job every minute takes those that one did not come to.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog

from realtime.adapters import purchases_store
from realtime.adapters.stripe_gateway import Gateway, PaymentStatus, ProviderRefused, ProviderUnavailable
from realtime.domain.purchase import Purchase, Status
from realtime.services import jobs, purchase_records
from realtime.services.calls import Transactions
from realtime.services.charging import Budget, Charging
from realtime.services.purchase_records import PurchaseRecords

log = structlog.get_logger()

FINISH_WITHIN = timedelta(minutes=2)
"""A job charges a card only while its owner may still be waiting; after that it lets an unconfirmed purchase go."""
AUTHENTICATE_WITHIN = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=1)
CHECK_PAUSES_S = (10, 15, 30, 60, 120, 300, 900, 3600)
CHECKS_A_ROUND = 200


class PurchaseRecovery:
    def __init__(self, *, db: Transactions, gateway: Gateway, charging: Charging, records: PurchaseRecords) -> None:
        self._db = db
        self._gateway = gateway
        self._charging = charging
        self._records = records

    async def check(self, purchase_id: str) -> None:
        """Finish or let go of a purchase nobody is working on any more."""
        taken = await self._take(UUID(purchase_id))
        if taken is None:
            return
        purchase, age = taken
        try:
            if purchase.status is Status.CLAIMED:
                await self._recover_claimed(purchase, age, Budget())
            else:
                await self._recover_sent(purchase, age, Budget())
        except ProviderUnavailable as error:
            log.warning("a purchase waits for the payment provider", purchase_id=purchase_id, error=str(error))

    async def check_due(self) -> None:
        """Look after every purchase that is due: what the job of its own did not come to."""
        async with self._db.connection() as conn:
            due = await purchases_store.due(conn, CHECKS_A_ROUND)
        for purchase_id in due:
            await self.check(str(purchase_id))

    async def cancel_payment(self, payment_id: str) -> None:
        """See that a payment nobody wants any more cannot be confirmed."""
        payment = await self._charging.cancel(payment_id, Budget())
        if payment.status is not PaymentStatus.SUCCEEDED:
            return
        # Its buyer was quicker: money taken is always credited.
        async with self._db.connection() as conn:
            purchase_id = await purchases_store.of_payment(conn, payment_id, None)
        if purchase_id is not None:
            await self._records.record(purchase_id, payment)

    async def _take(self, purchase_id: UUID) -> tuple[Purchase, timedelta] | None:
        """The purchase and its age by the database's clock, if it is due."""
        async with self._db.connection() as conn:
            known = await purchases_store.get(conn, purchase_id)
            if known is None or known.status.finished:
                return None
            pause_s = CHECK_PAUSES_S[min(known.checks, len(CHECK_PAUSES_S) - 1)]
            taken = await purchases_store.take_check(conn, purchase_id, pause_s)
            if taken is None and known.status in {Status.CLAIMED, Status.PREPARED}:
                # Somebody is at work on it, and may yet be killed.
                in_s = purchase_records.FIRST_CHECK_S
                await jobs.defer(conn, "check_purchase", in_s=in_s, purchase_id=str(purchase_id))
        return taken

    async def _recover_claimed(self, purchase: Purchase, age: timedelta, budget: Budget) -> None:
        if age > FINISH_WITHIN:
            await self._records.let_go(purchase.id, "abandoned")
            return
        purchase = await self._charging.prepare(purchase, budget, resumed=True)
        if not purchase.status.finished:
            await self._charging.charge(purchase, budget, confirm_at_once=False)

    async def _recover_sent(self, purchase: Purchase, age: timedelta, budget: Budget) -> None:
        assert purchase.payment_intent_id is not None
        try:
            payment = await budget.within(self._gateway.payment(purchase.payment_intent_id))
        except ProviderRefused as refused:
            log.error("the payment provider does not know a payment", purchase_id=str(purchase.id), code=refused.code)
            if age > GIVE_UP_AFTER:
                await self._records.give_up(purchase.id, "payment_unknown")
            return
        unconfirmed = payment.status is PaymentStatus.REQUIRES_CONFIRMATION
        if unconfirmed and age <= FINISH_WITHIN:
            await self._charging.charge(purchase, budget, confirm_at_once=True)
            return
        failure = "abandoned" if unconfirmed else None
        if unconfirmed or (payment.status is PaymentStatus.REQUIRES_ACTION and age > AUTHENTICATE_WITHIN):
            failure = failure or "authentication_expired"
            payment = await self._charging.cancel(payment.id, budget)
        await self._records.record(purchase.id, payment, failure=failure)
