"""Paying a purchase back: an admin's order, recorded before the provider is asked, and booked after it has done it.

The provider's refund comes first and the tokens after it, from what the provider then says was paid back in all; its
own event says the same figure again and books nothing more. A process killed in between leaves the order, and a job
carries it on: it looks for the refund before asking for one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog

from ledger import store
from realtime.adapters import idempotency_store, purchases_store
from realtime.adapters.purchases_store import RefundOrder
from realtime.adapters.stripe_gateway import Gateway, ProviderRefused, ProviderUnavailable
from realtime.domain import errors
from realtime.domain.purchase import Purchase, Status
from realtime.services import idempotency, jobs, purchase_ledger
from realtime.services.calls import Transactions
from realtime.services.charging import Budget
from realtime.services.idempotency import Claim, Idempotency, Kept, Keyed
from realtime.services.money_limits import MoneyLimits, Operation
from realtime.services.news import News
from realtime.services.pushes import Pushes

log = structlog.get_logger()

FIRST_CHECK_S = 40.0
"""Longer than a request may take (`Budget`): a second refund is not asked for while the first may be on its way."""
NEXT_CHECK_S = 60.0
CHECKS_A_ROUND = 100

OPERATION = "refund"


class Refunds:
    def __init__(
        self, *, db: Transactions, gateway: Gateway, limits: MoneyLimits, idempotency: Idempotency, out: Pushes
    ) -> None:
        self._db = db
        self._gateway = gateway
        self._limits = limits
        self._idempotency = idempotency
        self._out = out

    async def refund(self, operation: Operation, purchase_id: UUID) -> Kept:
        """Pay a purchase back whole, or what is left of it. Raises the idempotency errors and LimiterUnavailable.

        Kept answers: what was refunded; `not_found`; `purchase_not_refundable` (it did not succeed, or is paid back or
        being paid back); `refund_refused` with the provider's code.
        """
        request = Keyed(operation.user_id, operation.key, OPERATION, {"purchaseId": str(purchase_id)}, operation.keep_s)
        return await self._idempotency.once(request, lambda claim: self._carry_out(claim, purchase_id))

    async def _carry_out(self, claim: Claim, purchase_id: UUID) -> idempotency.Outcome:
        if claim.subject is None:
            await self._limits.answers()
            refused = await self._order(claim, purchase_id)
            if refused is not None:
                return refused
        async with self._db.connection() as conn:
            order = await purchases_store.refund_order(conn, purchase_id)
        assert order is not None, "the claim's subject is written with its order"
        try:
            await self._pay_back(order)
        except ProviderUnavailable:
            # Perhaps it was done: the order stands, and the job finds out.
            await self._answer_pending(order)
        async with self._db.connection() as conn:
            record = await idempotency_store.record(conn, claim.request.user_id, claim.request.key)
        assert record is not None
        assert record.outcome is not None
        return record.outcome

    async def _order(self, claim: Claim, purchase_id: UUID) -> idempotency.Outcome | None:
        """Record the order; the refusal, kept, if there is nothing to order."""
        admin_id, key = claim.request.user_id, claim.request.key
        async with self._db.begin() as conn:
            purchase = await purchases_store.lock(conn, purchase_id)
            refused: errors.Refused | None = None
            if purchase is None:
                refused = errors.NotFound("there is no such purchase")
            elif purchase.status is not Status.SUCCEEDED:
                refused = errors.NotRefundable("the purchase has not succeeded")
            elif purchase.refunded_cents >= purchase.amount_cents:
                refused = errors.NotRefundable("the purchase is paid back already")
            elif not await purchases_store.order_refund(conn, purchase_id, admin_id, key, FIRST_CHECK_S - 1):
                refused = errors.NotRefundable("the purchase is being paid back, or was")
            if refused is not None:
                outcome = idempotency.refusal(refused)
                await self._idempotency.keep(conn, claim, outcome)
                return outcome
            if not await idempotency_store.set_subject(conn, admin_id, key, claim.holder, purchase_id):
                raise idempotency.LostHold
            await jobs.defer(conn, "check_refund", in_s=FIRST_CHECK_S, purchase_id=str(purchase_id))
        return None

    async def _pay_back(self, order: RefundOrder) -> None:
        """Ask the provider for what is not paid back yet, and book it. Raises ProviderUnavailable."""
        async with self._db.connection() as conn:
            purchase = await purchases_store.get(conn, order.purchase_id)
        assert purchase is not None
        assert purchase.payment_intent_id is not None
        payment_id, amount_cents, budget = purchase.payment_intent_id, purchase.amount_cents, Budget()
        paid_back = purchase.refunded_cents
        refused: ProviderRefused | None = None
        try:
            paid_back = await budget.within(self._gateway.refunded_cents(payment_id))
            if paid_back < amount_cents:
                await budget.within(
                    self._gateway.refund(payment_id, purchase.id, amount_cents - paid_back, order.created_at)
                )
                paid_back = amount_cents
        except ProviderRefused as error:
            refused = error
            with suppress(ProviderRefused):  # of a payment it does not know there is no more to learn
                paid_back = await budget.within(self._gateway.refunded_cents(payment_id))
        await self._book(order, paid_back, refused)

    async def _book(self, order: RefundOrder, paid_back_cents: int, refused: ProviderRefused | None) -> None:
        news = News()
        async with self._db.begin() as conn:
            purchase = await purchase_ledger.note_refunded(
                conn, order.purchase_id, paid_back_cents, news, actor=order.admin_id
            )
            done = purchase.refunded_cents >= purchase.amount_cents
            await purchases_store.finish_refund(conn, order.purchase_id, "done" if done else "refused")
            if done:
                outcome = refunded_answer(purchase, "refunded")
            else:
                code = refused.code if refused else None
                outcome = idempotency.refusal(errors.RefundRefused(None, purchaseId=str(purchase.id), reason=code))
                await _note_refused(conn, order, code, news)
            await idempotency_store.finish_subject(
                conn, order.admin_id, order.idempotency_key, order.purchase_id, outcome
            )
        await news.tell(self._out)

    async def _answer_pending(self, order: RefundOrder) -> None:
        async with self._db.begin() as conn:
            purchase = await purchases_store.get(conn, order.purchase_id)
            assert purchase is not None
            await idempotency_store.finish_subject(
                conn, order.admin_id, order.idempotency_key, order.purchase_id, refunded_answer(purchase, "processing")
            )

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def check(self, purchase_id: str) -> None:
        """Carry on an order nobody is working on any more."""
        async with self._db.connection() as conn:
            order = await purchases_store.take_refund_check(conn, UUID(purchase_id), NEXT_CHECK_S)
        if order is None:
            return
        try:
            await self._pay_back(order)
        except ProviderUnavailable as error:
            log.warning("a refund waits for the payment provider", purchase_id=purchase_id, error=str(error))

    async def check_due(self) -> None:
        async with self._db.connection() as conn:
            due = await purchases_store.due_refunds(conn, CHECKS_A_ROUND)
        for purchase_id in due:
            await self.check(str(purchase_id))


async def _note_refused(conn: Any, order: RefundOrder, code: str | None, news: News) -> None:
    await store.audit(
        conn,
        actor=order.admin_id,
        action="refund_refused",
        subject=str(order.purchase_id),
        details={"code": code},
    )
    news.line("refund refused", purchase_id=str(order.purchase_id), by=order.admin_id, code=code)


def refunded_answer(purchase: Purchase, status: str) -> idempotency.Outcome:
    return {
        "purchaseId": str(purchase.id),
        "status": status,
        "refundedCents": purchase.refunded_cents,
        "tokensTakenBack": purchase.reversed_tokens - purchase.owed_tokens,
        "tokensOwed": purchase.owed_tokens,
    }
