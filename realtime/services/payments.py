"""Buying tokens: recovery points with the payment provider's calls between them, never inside a transaction.

    1  the key is claimed, the day's allowance reserved, the purchase `claimed`, and a job queued to look after it
    -  the provider makes a payment, unconfirmed
    2  its id is in the row: `prepared`
    -  the payment is confirmed
    3  the outcome, its journal and the kept answer, in one transaction; then the balance is pushed

A process killed anywhere leaves a row that says how far it came. The same request again, or the job, goes on from
there: only the payment in the row is ever confirmed, and a payment is charged once however often it is confirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

import structlog

from ledger import store
from ledger.journals import Journal, Leg, Outcome, TransactionType
from realtime.adapters import idempotency_store, purchases_store
from realtime.adapters.identifiers import new_id
from realtime.adapters.limiter import Allowance
from realtime.adapters.stripe_gateway import (
    Gateway,
    Payment,
    PaymentStatus,
    ProviderRefused,
    ProviderUnavailable,
)
from realtime.domain import errors
from realtime.domain.purchase import Effect, Event, Purchase, Status, decide, tokens_for
from realtime.services import idempotency, jobs, pushes, reversals
from realtime.services.calls import Transactions
from realtime.services.idempotency import Claim, Idempotency, Kept, Keyed
from realtime.services.money_limits import MoneyLimits
from realtime.services.pushes import Push, Pushes

log = structlog.get_logger()

T = TypeVar("T")

ATTEMPT_S = 25.0
"""How long a request waits for the provider before it is answered `processing` and left to the job."""
FIRST_CHECK_S = 8.0
"""When the job looks after a purchase nobody holds any more: a little after a killed process's hold has run out."""
FINISH_WITHIN = timedelta(minutes=2)
"""A job charges a card only while its owner may still be waiting; after that it lets an unconfirmed purchase go."""
AUTHENTICATE_WITHIN = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=1)
CHECK_PAUSES_S = (10, 15, 30, 60, 120, 300, 900, 3600)
CHECKS_A_ROUND = 200

OPERATION = "purchase-tokens"

NOTHING_HAPPENED = frozenset({"provider_unavailable", "abandoned"})
"""Failures that free the key: nothing was charged, and the same request may be tried again."""

EVENT_OF = {
    PaymentStatus.SUCCEEDED: Event.SUCCEEDED,
    PaymentStatus.REQUIRES_ACTION: Event.ACTION_REQUIRED,
    PaymentStatus.PROCESSING: Event.PROCESSING,
    PaymentStatus.REQUIRES_CAPTURE: Event.PROCESSING,
    PaymentStatus.REQUIRES_PAYMENT_METHOD: Event.DECLINED,
    PaymentStatus.CANCELED: Event.CANCELLED,
}
"""What a payment's state at the provider means for its purchase; an unconfirmed one means nothing yet."""


@dataclass(slots=True)
class Operation:
    """One request that moves money: whose, by which key, and what the limiter said of it, if it was asked."""

    user_id: str
    key: str
    keep_s: int
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Order:
    amount_cents: int
    payment_method_id: str


class Observer(Protocol):
    def purchase(self, outcome: str) -> None:
        """A purchase has ended (`succeeded`, or by its failure) or waits for its buyer (`requires_action`)."""


class Payments:
    def __init__(
        self,
        *,
        db: Transactions,
        gateway: Gateway,
        limits: MoneyLimits,
        idempotency: Idempotency,
        out: Pushes,
        tokens_per_usd: int,
        observer: Observer,
    ) -> None:
        self._db = db
        self._gateway = gateway
        self._limits = limits
        self._idempotency = idempotency
        self._out = out
        self._tokens_per_usd = tokens_per_usd
        self._observer = observer

    # -- requests ------------------------------------------------------------------------------------------------

    async def buy(self, operation: Operation, order: Order) -> Kept:
        """Buy tokens once, however often this is asked with the same key.

        Raises the idempotency errors, RateLimited, LimiterUnavailable, DailyLimitExceeded, InvalidPayload for an amount
        that is less than one token, and PaymentsUnavailable; each of them means that nothing was charged.
        """
        payload = {"amountInCents": order.amount_cents, "paymentMethodId": order.payment_method_id}
        if tokens_for(order.amount_cents, self._tokens_per_usd) < 1:
            raise errors.InvalidPayload("amountInCents: buys less than one token")
        request = Keyed(operation.user_id, operation.key, OPERATION, payload, operation.keep_s)
        return await self._idempotency.once(request, lambda claim: self._carry_out(claim, operation, order))

    async def get(self, user_id: str, purchase_id: UUID) -> Purchase:
        async with self._db.connection() as conn:
            purchase = await purchases_store.get(conn, purchase_id)
        if purchase is None or purchase.user_id != user_id:
            raise errors.NotFound("there is no such purchase")
        return purchase

    async def _carry_out(self, claim: Claim, operation: Operation, order: Order) -> idempotency.Outcome:
        if claim.subject is None:
            operation.allowance = await self._limits.take(operation.user_id)
            purchase = await self._begin(claim, order)
            await self._advance(purchase, resumed=False)
        else:
            async with self._db.connection() as conn:
                begun = await purchases_store.get(conn, claim.subject)
            assert begun is not None, "a claim's subject is written with its purchase"
            await self._advance(begun, resumed=True)
        async with self._db.connection() as conn:
            record = await idempotency_store.record(conn, claim.request.user_id, claim.request.key)
        if record is None or record.outcome is None:
            raise errors.PaymentsUnavailable
        return record.outcome

    async def _begin(self, claim: Claim, order: Order) -> Purchase:
        """The first recovery point. Raises DailyLimitExceeded."""
        user_id, key = claim.request.user_id, claim.request.key
        async with self._db.begin() as conn:
            day = await self._limits.reserve(conn, user_id, order.amount_cents)
            purchase = await purchases_store.insert(
                conn,
                purchase_id=new_id(),
                user_id=user_id,
                idempotency_key=key,
                amount_cents=order.amount_cents,
                tokens=tokens_for(order.amount_cents, self._tokens_per_usd),
                payment_method_id=order.payment_method_id,
                spend_day=day,
                check_in_s=FIRST_CHECK_S - 1,
            )
            if not await idempotency_store.set_subject(conn, user_id, key, claim.holder, purchase.id):
                raise idempotency.LostHold
            await jobs.defer(conn, "check_purchase", in_s=FIRST_CHECK_S, purchase_id=str(purchase.id))
        return purchase

    # -- with the provider ---------------------------------------------------------------------------------------

    async def _advance(self, purchase: Purchase, *, resumed: bool) -> None:
        """Carry a purchase as far as the provider lets it be carried while its buyer waits, and keep an answer."""
        budget = _Budget(ATTEMPT_S)
        if purchase.status is Status.CLAIMED:
            try:
                purchase = await self._prepare(purchase, budget, resumed=resumed)
            except ProviderUnavailable:
                # An unconfirmed payment may have been made; nobody will ever confirm it.
                await self._let_go(purchase.id, "provider_unavailable")
                return
        if not purchase.status.finished:
            try:
                await self._charge(purchase, budget, confirm_at_once=not resumed)
            except ProviderUnavailable:
                log.warning("a payment's outcome is not known yet", purchase_id=str(purchase.id))
        await self._keep_answer(purchase.id)

    async def _prepare(self, purchase: Purchase, budget: _Budget, *, resumed: bool) -> Purchase:
        """The second recovery point. Raises ProviderUnavailable, with nothing changed."""
        try:
            payment = None
            if resumed:
                payment = await budget.within(self._gateway.find(purchase.id, purchase.created_at))
            if payment is None:
                payment = await budget.within(
                    self._gateway.create(
                        purchase.id, purchase.user_id, purchase.amount_cents, purchase.payment_method_id
                    )
                )
        except ProviderRefused as refused:
            return await self._let_go(purchase.id, "payment_method_invalid", refused.code)
        return await self._record_payment(purchase.id, payment)

    async def _record_payment(self, purchase_id: UUID, payment: Payment) -> Purchase:
        """Name the one payment that may be confirmed. If another was quicker, theirs stands, ours is cancelled."""
        async with self._db.begin() as conn:
            purchase = await self._locked(conn, purchase_id)
            if purchase.status is Status.CLAIMED:
                prepared = decide(purchase, Event.PREPARED).purchase
                return await purchases_store.save(
                    conn, replace(prepared, payment_intent_id=payment.id), check_in_s=FIRST_CHECK_S - 1
                )
            if purchase.payment_intent_id != payment.id:
                await jobs.defer(conn, "cancel_payment", payment_id=payment.id)
        return purchase

    async def _charge(self, purchase: Purchase, budget: _Budget, *, confirm_at_once: bool) -> None:
        """Confirm the payment, unless it was, and record the outcome. Raises ProviderUnavailable if nobody knows it."""
        assert purchase.payment_intent_id is not None
        payment_id = purchase.payment_intent_id
        payment = None if confirm_at_once else await budget.within(self._gateway.payment(payment_id))
        failure: str | None = None
        refusal: str | None = None
        if payment is None or payment.status is PaymentStatus.REQUIRES_CONFIRMATION:
            try:
                payment = await budget.within(self._gateway.confirm(payment_id, purchase.id))
            except ProviderRefused as refused:
                # Refused may mean that it was confirmed before: the payment itself knows.
                payment = await budget.within(self._gateway.payment(payment_id))
                if payment.status is PaymentStatus.REQUIRES_CONFIRMATION:
                    payment = await self._cancel(payment_id, budget)
                    failure, refusal = "payment_method_invalid", refused.code
            except ProviderUnavailable:
                payment = await budget.within(self._gateway.payment(payment_id))
        await self.record(purchase.id, payment, failure=failure, decline_code=refusal)

    async def _cancel(self, payment_id: str, budget: _Budget) -> Payment:
        """Cancel the payment; if it cannot be cancelled, how it stands."""
        try:
            return await budget.within(self._gateway.cancel(payment_id))
        except ProviderRefused:
            return await budget.within(self._gateway.payment(payment_id))

    # -- outcomes ------------------------------------------------------------------------------------------------

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

    async def _let_go(self, purchase_id: UUID, failure: str, decline_code: str | None = None) -> Purchase:
        """End a purchase that has no payment. If another worker gave it one meanwhile, that one goes on."""
        return await self._happen(
            purchase_id, Event.CANCELLED, only_at=Status.CLAIMED, failure=failure, decline_code=decline_code
        )

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
        async with self._db.begin() as conn:
            purchase = await self._locked(conn, purchase_id)
            if only_at not in {None, purchase.status}:
                return purchase
            decision = decide(
                purchase, event, decline_code=decline_code, failure=failure or "cancelled" if _fails(event) else None
            )
            if decision.purchase == purchase:
                return purchase
            pause_s = CHECK_PAUSES_S[3]
            moved = await purchases_store.save(conn, decision.purchase, check_in_s=pause_s)
            moved, news = await self._effects(conn, moved, decision.effects, payment)
            if moved.status is Status.REQUIRES_ACTION:
                await self._answer(conn, moved, payment)
        self._note(moved)
        await self._out.emit_many(news)
        return moved

    async def _effects(
        self, conn: Any, purchase: Purchase, effects: tuple[Effect, ...], payment: Payment | None
    ) -> tuple[Purchase, list[Push]]:
        news: list[Push] = []
        for effect in effects:
            match effect:
                case Effect.CREDIT:
                    purchase, news = await self._credit(conn, purchase)
                case Effect.RETAKE_ALLOWANCE:
                    await self._limits.retake(conn, purchase)
                case Effect.RELEASE_ALLOWANCE:
                    await self._limits.release(conn, purchase)
                    await self._fail(conn, purchase, payment)
                    news = pushes.invalidate([purchase.user_id], ["purchases"])
                case Effect.CANCEL_PAYMENT:
                    await jobs.defer(conn, "cancel_payment", payment_id=purchase.payment_intent_id)
        return purchase, news

    async def _credit(self, conn: Any, purchase: Purchase) -> tuple[Purchase, list[Push]]:
        """Money at the provider against what we owe in service, and as many tokens issued as the wallet gains."""
        [wallet_id] = await store.ensure_accounts(conn, [(purchase.user_id, "wallet")])
        issued, clearing, sales = [
            await store.platform_account(conn, kind) for kind in ("tokens_issued", "stripe_clearing", "token_sales")
        ]
        [posting] = await store.post(
            conn,
            [
                Journal(
                    key=f"purchase:{purchase.id}",
                    type=TransactionType.PURCHASE,
                    legs=(
                        Leg(clearing, purchase.amount_cents),
                        Leg(sales, -purchase.amount_cents),
                        Leg(issued, purchase.tokens),
                        Leg(wallet_id, -purchase.tokens),
                    ),
                    details={"purchaseId": str(purchase.id), "paymentIntentId": purchase.payment_intent_id},
                )
            ],
            actor=purchase.user_id,
        )
        if posting.outcome is not Outcome.POSTED:
            raise reversals.NotBooked(f"purchase {purchase.id}: {posting.outcome}")
        after = reversals.account_after(posting, wallet_id)
        answer = {
            "purchaseId": str(purchase.id),
            "status": "succeeded",
            "tokens": purchase.tokens,
            "balance": after.balance_tokens,
            "version": after.version,
        }
        await idempotency_store.finish_subject(conn, purchase.user_id, purchase.idempotency_key, purchase.id, answer)
        log.info(
            "purchase succeeded",
            purchase_id=str(purchase.id),
            user=purchase.user_id,
            amount_cents=purchase.amount_cents,
            tokens=purchase.tokens,
            journal_id=posting.journal_id,
        )
        news = [
            *pushes.wallet_changed(
                purchase.user_id, after, delta=purchase.tokens, reason="purchase", purchaseId=str(purchase.id)
            ),
            *pushes.invalidate([purchase.user_id], ["purchases"]),
        ]
        # A refund or dispute that overtook the success has only been noted so far.
        if purchase.refunded_cents or purchase.disputed_cents:
            purchase, reversed_news = await reversals.book(conn, purchase, TransactionType.REFUND, actor="stripe")
            news += reversed_news
        return purchase, news

    async def _fail(self, conn: Any, purchase: Purchase, payment: Payment | None) -> None:
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
        log.info(
            "purchase failed",
            purchase_id=str(purchase.id),
            user=purchase.user_id,
            amount_cents=purchase.amount_cents,
            failure=purchase.failure,
            decline_code=purchase.decline_code,
        )
        if purchase.failure in NOTHING_HAPPENED:
            await idempotency_store.forget_subject(conn, purchase.user_id, purchase.idempotency_key, purchase.id)
        else:
            await self._answer(conn, purchase, payment)

    async def _answer(self, conn: Any, purchase: Purchase, payment: Payment | None) -> None:
        """Keep the answer of a purchase that did not succeed at once."""
        answer = answer_of(purchase, payment)
        await idempotency_store.finish_subject(conn, purchase.user_id, purchase.idempotency_key, purchase.id, answer)

    async def _keep_answer(self, purchase_id: UUID) -> None:
        """A request that cannot wait longer is answered with how the purchase stands."""
        async with self._db.begin() as conn:
            purchase = await self._locked(conn, purchase_id)
            if purchase.status in {Status.PREPARED, Status.PROCESSING}:
                await self._answer(conn, purchase, None)
                await purchases_store.check_again(conn, purchase.id, CHECK_PAUSES_S[0])
                await jobs.defer(conn, "check_purchase", in_s=CHECK_PAUSES_S[0] + 1, purchase_id=str(purchase.id))

    @staticmethod
    async def _locked(conn: Any, purchase_id: UUID) -> Purchase:
        purchase = await purchases_store.lock(conn, purchase_id)
        assert purchase is not None, "purchases are never deleted"
        return purchase

    def _note(self, purchase: Purchase) -> None:
        if purchase.status.finished or purchase.status is Status.REQUIRES_ACTION:
            self._observer.purchase(purchase.failure or purchase.status.value)

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def check(self, purchase_id: str) -> None:
        """Finish or let go of a purchase nobody is working on any more."""
        async with self._db.connection() as conn:
            known = await purchases_store.get(conn, UUID(purchase_id))
            if known is None or known.status.finished:
                return
            pause_s = CHECK_PAUSES_S[min(known.checks, len(CHECK_PAUSES_S) - 1)]
            purchase = await purchases_store.take_check(conn, known.id, pause_s)
            if purchase is None and known.status in {Status.CLAIMED, Status.PREPARED}:
                # Somebody is at work on it, and may yet be killed.
                await jobs.defer(conn, "check_purchase", in_s=FIRST_CHECK_S, purchase_id=purchase_id)
        if purchase is None:
            return
        age = datetime.now(UTC) - purchase.created_at
        budget = _Budget(ATTEMPT_S)
        try:
            if purchase.status is Status.CLAIMED:
                await self._recover_claimed(purchase, age, budget)
            else:
                await self._recover_sent(purchase, age, budget)
        except ProviderUnavailable as error:
            log.warning("a purchase waits for the payment provider", purchase_id=purchase_id, error=str(error))

    async def _recover_claimed(self, purchase: Purchase, age: timedelta, budget: _Budget) -> None:
        if age > FINISH_WITHIN:
            await self._let_go(purchase.id, "abandoned")
            return
        purchase = await self._prepare(purchase, budget, resumed=True)
        if not purchase.status.finished:
            await self._charge(purchase, budget, confirm_at_once=False)

    async def _recover_sent(self, purchase: Purchase, age: timedelta, budget: _Budget) -> None:
        assert purchase.payment_intent_id is not None
        try:
            payment = await budget.within(self._gateway.payment(purchase.payment_intent_id))
        except ProviderRefused as refused:
            log.error("the payment provider does not know a payment", purchase_id=str(purchase.id), code=refused.code)
            if age > GIVE_UP_AFTER:
                await self._happen(purchase.id, Event.CANCELLED, failure="payment_unknown")
            return
        unconfirmed = payment.status is PaymentStatus.REQUIRES_CONFIRMATION
        if unconfirmed and age <= FINISH_WITHIN:
            await self._charge(purchase, budget, confirm_at_once=True)
            return
        failure = "abandoned" if unconfirmed else None
        if unconfirmed or (payment.status is PaymentStatus.REQUIRES_ACTION and age > AUTHENTICATE_WITHIN):
            failure = failure or "authentication_expired"
            payment = await self._cancel(payment.id, budget)
        await self.record(purchase.id, payment, failure=failure)

    async def cancel_payment(self, payment_id: str) -> None:
        """See that a payment nobody wants any more cannot be confirmed."""
        try:
            await self._gateway.cancel(payment_id)
        except ProviderRefused as refused:
            # Cancelled before, or charged meanwhile: then its event says so, and it is credited.
            log.info("a payment could not be cancelled", payment_id=payment_id, code=refused.code)

    async def due(self) -> list[UUID]:
        async with self._db.connection() as conn:
            return await purchases_store.due(conn, CHECKS_A_ROUND)

    async def check_due(self) -> None:
        """Look after every purchase that is due: what the job of its own did not come to."""
        for purchase_id in await self.due():
            await self.check(str(purchase_id))


def _fails(event: Event) -> bool:
    return event in {Event.DECLINED, Event.CANCELLED}


def answer_of(purchase: Purchase, payment: Payment | None) -> idempotency.Outcome:
    """What a request is answered whose purchase has not succeeded."""
    purchase_id = str(purchase.id)
    match purchase.status:
        case Status.REQUIRES_ACTION:
            assert payment is not None
            return {
                "purchaseId": purchase_id,
                "status": "requires_action",
                "clientSecret": payment.client_secret,
                "tokens": purchase.tokens,
            }
        case Status.FAILED if purchase.failure == "payment_method_invalid":
            return idempotency.refusal(
                errors.PaymentMethodInvalid(None, purchaseId=purchase_id, declineCode=purchase.decline_code)
            )
        case Status.FAILED:
            return idempotency.refusal(
                errors.PaymentDeclined(
                    (payment and payment.message) or None,
                    purchaseId=purchase_id,
                    declineCode=purchase.decline_code or purchase.failure,
                )
            )
        case _:
            return {"purchaseId": purchase_id, "status": "processing", "tokens": purchase.tokens}


class _Budget:
    """The time one go has for all its talk with the provider."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def within(self, call: Awaitable[T]) -> T:
        """The call's answer, or ProviderUnavailable when the time is over: it may have taken effect all the same."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await call
        except TimeoutError:
            raise ProviderUnavailable("our own time for it is over") from None
