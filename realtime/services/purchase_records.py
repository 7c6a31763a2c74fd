"""What happens to a purchase, written: its row and all that changes with it, in one transaction, and told after it.

The domain's table decides where an event leads; here its effects are carried out: the journal, the day's allowance, the
answer that is kept with the purchase's key, the audit log. Requests, jobs and the provider's events all come here, in
whatever order and however often.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from ledger import store
from realtime.adapters import idempotency_store, purchases_store
from realtime.adapters.stripe_gateway import Payment, PaymentStatus
from realtime.domain import errors
from realtime.domain.call import Account
from realtime.domain.purchase import Effect, Event, Purchase, Status, decide
from realtime.services import idempotency, jobs, purchase_ledger, pushes
from realtime.services.calls import Transactions
from realtime.services.money_limits import MoneyLimits
from realtime.services.news import News
from realtime.services.pushes import Pushes

FIRST_CHECK_S = 8.0
"""When a job looks after a purchase nobody holds any more: a little after a killed process's hold has run out."""
PENDING_CHECK_S = 10.0
"""And after one whose request could not wait longer for the provider."""
MOVED_CHECK_S = 60.0
"""And after one that waits for its buyer, its bank or an event."""

EVENT_OF = {
    PaymentStatus.SUCCEEDED: Event.SUCCEEDED,
    PaymentStatus.REQUIRES_ACTION: Event.ACTION_REQUIRED,
    PaymentStatus.PROCESSING: Event.PROCESSING,
    PaymentStatus.REQUIRES_CAPTURE: Event.PROCESSING,
    PaymentStatus.REQUIRES_PAYMENT_METHOD: Event.DECLINED,
    PaymentStatus.CANCELED: Event.CANCELLED,
}
"""What a payment's state at the provider means for its purchase; an unconfirmed one means nothing yet."""

NOTHING_HAPPENED = frozenset({"provider_unavailable", "abandoned"})
"""Failures that free the key: nothing was charged, and the same request may be tried again."""


class Observer(Protocol):
    def purchase(self, outcome: str) -> None:
        """A purchase has ended (`succeeded`, or by its failure) or waits for its buyer (`requires_action`)."""


class PurchaseRecords:
    def __init__(self, *, db: Transactions, limits: MoneyLimits, out: Pushes, observer: Observer) -> None:
        self._db = db
        self._limits = limits
        self._out = out
        self._observer = observer

    async def name_payment(self, purchase_id: UUID, payment: Payment) -> Purchase:
        """Name the one payment that may be confirmed. If another was quicker, theirs stands, ours is cancelled."""
        async with self._db.begin() as conn:
            purchase = await _locked(conn, purchase_id)
            if purchase.status is Status.CLAIMED:
                prepared = decide(purchase, Event.PREPARED).purchase
                return await purchases_store.save(
                    conn, replace(prepared, payment_intent_id=payment.id), check_in_s=FIRST_CHECK_S - 1
                )
            if purchase.payment_intent_id != payment.id:
                await jobs.defer(conn, "cancel_payment", payment_id=payment.id)
        return purchase

    async def record(
        self, purchase_id: UUID, payment: Payment, *, failure: str | None = None, decline_code: str | None = None
    ) -> Purchase | None:
        """Write what the provider says of the purchase's payment; None while that is nothing yet."""
        event = EVENT_OF.get(payment.status)
        if event is None:
            return None
        if event is Event.DECLINED:
            failure, decline_code = "declined", payment.decline_code or "card_declined"
        return await self._happen(purchase_id, event, payment=payment, failure=failure, decline_code=decline_code)

    async def let_go(self, purchase_id: UUID, failure: str, decline_code: str | None = None) -> Purchase:
        """End a purchase that has no payment. If another worker gave it one meanwhile, that one goes on."""
        return await self._happen(
            purchase_id, Event.CANCELLED, only_at=Status.CLAIMED, failure=failure, decline_code=decline_code
        )

    async def give_up(self, purchase_id: UUID, failure: str) -> Purchase:
        """End a purchase whose payment can never be charged, without the provider's word for it."""
        return await self._happen(purchase_id, Event.CANCELLED, failure=failure)

    async def keep_answer(self, purchase_id: UUID) -> None:
        """A request that cannot wait longer is answered with how the purchase stands."""
        async with self._db.begin() as conn:
            purchase = await _locked(conn, purchase_id)
            if purchase.status in {Status.PREPARED, Status.PROCESSING}:
                await _keep(conn, purchase, processing_answer(purchase))
                await purchases_store.check_again(conn, purchase.id, PENDING_CHECK_S)
                await jobs.defer(conn, "check_purchase", in_s=PENDING_CHECK_S + 1, purchase_id=str(purchase.id))

    # -- an event and its effects ----------------------------------------------------------------------------------

    async def _happen(
        self,
        purchase_id: UUID,
        event: Event,
        *,
        only_at: Status | None = None,
        payment: Payment | None = None,
        failure: str | None = None,
        decline_code: str | None = None,
    ) -> Purchase:
        news = News()
        async with self._db.begin() as conn:
            purchase = await _locked(conn, purchase_id)
            if only_at not in {None, purchase.status}:
                return purchase
            fails = event in {Event.DECLINED, Event.CANCELLED}
            decision = decide(
                purchase, event, decline_code=decline_code, failure=failure or "cancelled" if fails else None
            )
            if decision.purchase == purchase:
                return purchase
            moved = await purchases_store.save(conn, decision.purchase, check_in_s=MOVED_CHECK_S)
            for effect in decision.effects:
                moved = await self._carry_out(conn, effect, moved, news)
            if moved.status is Status.REQUIRES_ACTION:
                assert payment is not None, "only a payment says that its buyer must act"
                await _keep(conn, moved, action_answer(moved, payment))
            elif moved.status is Status.FAILED:
                await _note_failure(conn, moved, news)
                if moved.failure in NOTHING_HAPPENED:
                    await _free_key(conn, moved)
                else:
                    await _keep(conn, moved, failed_answer(moved, payment.message if payment else None))
        if moved.status.finished or moved.status is Status.REQUIRES_ACTION:
            self._observer.purchase(moved.failure or moved.status.value)
        await news.tell(self._out)
        return moved

    async def _carry_out(self, conn: Any, effect: Effect, purchase: Purchase, news: News) -> Purchase:
        match effect:
            case Effect.CREDIT:
                purchase, wallet = await purchase_ledger.credit(conn, purchase, news)
                await _keep(conn, purchase, succeeded_answer(purchase, wallet))
            case Effect.RETAKE_ALLOWANCE:
                await self._limits.retake(conn, purchase)
            case Effect.RELEASE_ALLOWANCE:
                await self._limits.release(conn, purchase)
            case Effect.CANCEL_PAYMENT:
                await jobs.defer(conn, "cancel_payment", payment_id=purchase.payment_intent_id)
        return purchase


async def _locked(conn: Any, purchase_id: UUID) -> Purchase:
    purchase = await purchases_store.lock(conn, purchase_id)
    assert purchase is not None, "purchases are never deleted"
    return purchase


async def _note_failure(conn: Any, purchase: Purchase, news: News) -> None:
    await store.audit(
        conn,
        actor=purchase.user_id,
        action="purchase_failed",
        subject=str(purchase.id),
        details={
            "amountCents": purchase.amount_cents,
            "failure": purchase.failure,
            "declineCode": purchase.decline_code,
            "paymentIntentId": purchase.payment_intent_id,
        },
    )
    news.line(
        "purchase failed",
        purchase_id=str(purchase.id),
        user_id=purchase.user_id,
        amount_cents=purchase.amount_cents,
        failure=purchase.failure,
        decline_code=purchase.decline_code,
    )
    news.push(pushes.invalidate([purchase.user_id], ["purchases"]))


# -- what a request is answered ----------------------------------------------------------------------------------------


async def _keep(conn: Any, purchase: Purchase, answer: idempotency.Outcome) -> None:
    """Keep the answer with the purchase's key; if it has one already, that one stands."""
    await idempotency_store.finish_subject(conn, purchase.user_id, purchase.idempotency_key, purchase.id, answer)


async def _free_key(conn: Any, purchase: Purchase) -> None:
    await idempotency_store.forget_subject(conn, purchase.user_id, purchase.idempotency_key, purchase.id)


def succeeded_answer(purchase: Purchase, wallet: Account) -> idempotency.Outcome:
    return {
        "purchaseId": str(purchase.id),
        "status": "succeeded",
        "tokens": purchase.tokens,
        "balance": wallet.balance_tokens,
        "version": wallet.version,
    }


def action_answer(purchase: Purchase, payment: Payment) -> idempotency.Outcome:
    return {
        "purchaseId": str(purchase.id),
        "status": "requires_action",
        "clientSecret": payment.client_secret,
        "tokens": purchase.tokens,
    }


def processing_answer(purchase: Purchase) -> idempotency.Outcome:
    return {"purchaseId": str(purchase.id), "status": "processing", "tokens": purchase.tokens}


def failed_answer(purchase: Purchase, message: str | None) -> idempotency.Outcome:
    purchase_id = str(purchase.id)
    if purchase.failure == "payment_method_invalid":
        return idempotency.refusal(
            errors.PaymentMethodInvalid(None, purchaseId=purchase_id, declineCode=purchase.decline_code)
        )
    decline_code = purchase.decline_code or purchase.failure
    return idempotency.refusal(
        errors.PaymentDeclined(message or None, purchaseId=purchase_id, declineCode=decline_code)
    )
