"""Buying tokens: recovery points with the payment provider's calls between them.

    1  the key is claimed, the day's allowance reserved, the purchase `claimed`, and a job queued to look after it
    -  the provider makes a payment, unconfirmed                                            (`charging.prepare`)
    2  its id is in the row: `prepared`                                                     (`records.name_payment`)
    -  the payment is confirmed                                                             (`charging.charge`)
    3  the outcome, its journal and the kept answer, in one transaction; then the balance is pushed  (`records.record`)

A process killed anywhere leaves a row that says how far it came. The same request again, or the job
(`purchase_recovery`), goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import structlog

from realtime.adapters import idempotency_store, purchases_store
from realtime.adapters.identifiers import new_id
from realtime.adapters.stripe_gateway import ProviderUnavailable
from realtime.domain import errors
from realtime.domain.purchase import Purchase, Status, tokens_for
from realtime.services import idempotency, jobs, purchase_records
from realtime.services.calls import Transactions
from realtime.services.charging import Budget, Charging
from realtime.services.idempotency import Claim, Idempotency, Kept, Keyed
from realtime.services.money_limits import MoneyLimits, NothingLeft, Operation
from realtime.services.purchase_records import PurchaseRecords

log = structlog.get_logger()

OPERATION = "purchase-tokens"


@dataclass(frozen=True, slots=True)
class Order:
    amount_cents: int
    payment_method_id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a purchase stands by now."""

    purchase: Purchase
    client_secret: str | None = None
    """What its buyer authenticates with at the provider, while they have to."""


class Payments:
    def __init__(
        self,
        *,
        db: Transactions,
        charging: Charging,
        records: PurchaseRecords,
        limits: MoneyLimits,
        idempotency: Idempotency,
        tokens_per_usd: int,
    ) -> None:
        self._db = db
        self._charging = charging
        self._records = records
        self._limits = limits
        self._idempotency = idempotency
        self._tokens_per_usd = tokens_per_usd

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

    async def get(self, user_id: str, purchase_id: UUID) -> Standing:
        """One of the user's own purchases. Raises NotFound."""
        async with self._db.connection() as conn:
            purchase = await purchases_store.get(conn, purchase_id)
            if purchase is None or purchase.user_id != user_id:
                raise errors.NotFound("there is no such purchase")
            if purchase.status is not Status.REQUIRES_ACTION:
                return Standing(purchase)
            record = await idempotency_store.record(conn, user_id, purchase.idempotency_key)
        if record is None or record.subject != purchase.id or record.outcome is None:
            return Standing(purchase)
        if (told := record.outcome.get("clientSecret")) is not None:
            return Standing(purchase, told)
        # It was answered `processing` and came to its buyer later: only the provider can say with what.
        assert purchase.payment_intent_id is not None, "what was sent to the provider has its id"
        return Standing(purchase, await self._charging.client_secret(purchase.payment_intent_id))

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
        if record is None:  # let go, and its key is free
            raise errors.PaymentsUnavailable
        if record.outcome is None:  # taken over while we were out of breath: another is still at work
            raise idempotency.LostHold
        return record.outcome

    async def _begin(self, claim: Claim, order: Order) -> Purchase:
        """The first recovery point. Raises DailyLimitExceeded."""
        try:
            return await self._claim_purchase(claim, order)
        except NothingLeft:
            async with self._db.connection() as conn:
                raise await self._limits.exceeded(conn, claim.request.user_id) from None

    async def _claim_purchase(self, claim: Claim, order: Order) -> Purchase:
        user_id, key = claim.request.user_id, claim.request.key
        first_check_s = purchase_records.FIRST_CHECK_S
        async with self._db.begin() as conn:
            purchase = await purchases_store.insert(
                conn,
                purchase_id=new_id(),
                user_id=user_id,
                idempotency_key=key,
                amount_cents=order.amount_cents,
                tokens=tokens_for(order.amount_cents, self._tokens_per_usd),
                payment_method_id=order.payment_method_id,
                check_in_s=first_check_s - 1,
            )
            if not await idempotency_store.set_subject(conn, user_id, key, claim.holder, purchase.id):
                raise idempotency.LostHold
            await jobs.defer(conn, "check_purchase", in_s=first_check_s, purchase_id=str(purchase.id))
            await self._limits.reserve(conn, user_id, order.amount_cents)
        return purchase

    async def _advance(self, purchase: Purchase, *, resumed: bool) -> None:
        """Carry a purchase as far as the provider lets it be carried while its buyer waits, and keep an answer."""
        budget = Budget()
        if purchase.status is Status.CLAIMED:
            try:
                purchase = await self._charging.prepare(purchase, budget, resumed=resumed)
            except ProviderUnavailable:
                # An unconfirmed payment may have been made; nobody will ever confirm it.
                await self._records.let_go(purchase.id, "provider_unavailable")
                return
        if not purchase.status.finished:
            try:
                await self._charging.charge(purchase, budget, confirm_at_once=not resumed)
            except ProviderUnavailable:
                log.warning("a payment's outcome is not known yet", purchase_id=str(purchase.id))
        await self._records.keep_answer(purchase.id)
