"""A purchase's talk with the payment provider, between its recovery points and never inside a transaction.

Only the payment named in the row is ever confirmed, and a payment is charged once however often it is confirmed. So
each step may be repeated by whoever comes next, a request or a job, wherever the one before them was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from realtime.adapters.stripe_gateway import Gateway, Payment, PaymentStatus, ProviderRefused, ProviderUnavailable
from realtime.domain.purchase import Purchase
from realtime.services.purchase_records import PurchaseRecords

T = TypeVar("T")

ATTEMPT_S = 25.0
"""How long a request waits for the provider before it is answered `processing` and left to the job."""
LOOK_S = 5.0
"""How long somebody who only wants to know how a purchase stands waits for it."""


class Budget:
    """The time one go has for all its talk with the provider: `ATTEMPT_S`, unless told."""

    def __init__(self, seconds: float | None = None) -> None:
        self._deadline = asyncio.get_running_loop().time() + (ATTEMPT_S if seconds is None else seconds)

    async def within(self, call: Awaitable[T]) -> T:
        """The call's answer, or ProviderUnavailable when the time is over: it may have taken effect all the same."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await call
        except TimeoutError:
            raise ProviderUnavailable("our own time for it is over") from None


class Charging:
    def __init__(self, gateway: Gateway, records: PurchaseRecords) -> None:
        self._gateway = gateway
        self._records = records

    async def prepare(self, purchase: Purchase, budget: Budget, *, resumed: bool) -> Purchase:
        """Make the payment, unconfirmed, and name it in the row. Raises ProviderUnavailable, with nothing changed."""
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
            return await self._records.let_go(purchase.id, "payment_method_invalid", refused.code)
        return await self._records.name_payment(purchase.id, payment)

    async def charge(self, purchase: Purchase, budget: Budget, *, confirm_at_once: bool) -> None:
        """Confirm the payment, unless it was, and record the outcome. Raises ProviderUnavailable if nobody knows it."""
        assert purchase.payment_intent_id is not None
        payment_id = purchase.payment_intent_id
        payment = None if confirm_at_once else await self._standing(payment_id, budget)
        failure: str | None = None
        refusal: str | None = None
        if payment is None or payment.status is PaymentStatus.REQUIRES_CONFIRMATION:
            try:
                payment = await budget.within(self._gateway.confirm(payment_id, purchase.id))
            except ProviderRefused as refused:
                # Refused may mean that it was confirmed before: the payment itself knows.
                payment = await self._standing(payment_id, budget)
                if payment.status is PaymentStatus.REQUIRES_CONFIRMATION:
                    payment = await self.cancel(payment_id, budget)
                    failure, refusal = "payment_method_invalid", refused.code
            except ProviderUnavailable:
                payment = await self._standing(payment_id, budget)
        await self._records.record(purchase.id, payment, failure=failure, decline_code=refusal)

    async def client_secret(self, payment_id: str) -> str | None:
        """What the buyer authenticates the payment with; None unless it waits for that, or with the provider away."""
        try:
            payment = await self._standing(payment_id, Budget(LOOK_S))
        except ProviderUnavailable:
            return None
        return payment.client_secret if payment.status is PaymentStatus.REQUIRES_ACTION else None

    async def cancel(self, payment_id: str, budget: Budget) -> Payment:
        """Cancel the payment; if it cannot be cancelled, how it stands."""
        try:
            return await budget.within(self._gateway.cancel(payment_id))
        except ProviderRefused:
            return await self._standing(payment_id, budget)

    async def _standing(self, payment_id: str, budget: Budget) -> Payment:
        """The payment as it stands.

        Raises ProviderUnavailable also where the provider knows no such payment (it has lost it, or the key is another
        account's): what became of it is not known, and the job gives it up in the end.
        """
        try:
            return await budget.within(self._gateway.payment(payment_id))
        except ProviderRefused as refused:
            raise ProviderUnavailable(f"it does not know the payment: {refused.code}") from None
