"""A payment provider in memory, behind our own port. It keeps no idempotency keys; it fails before or after it acts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

from realtime.adapters.stripe_gateway import Payment, PaymentStatus, ProviderRefused, ProviderUnavailable
from tests.payments.stripe import event

PAYS, DECLINES, ASKS, TAKES_TIME = "pm_pays", "pm_declines", "pm_asks", "pm_takes_time"
METHODS = (PAYS, DECLINES, ASKS, TAKES_TIME)
CANCELLABLE = {
    PaymentStatus.REQUIRES_PAYMENT_METHOD,
    PaymentStatus.REQUIRES_CONFIRMATION,
    PaymentStatus.REQUIRES_ACTION,
}


@dataclass(slots=True)
class Intent:
    id: str
    purchase_id: UUID
    amount_cents: int
    method: str
    status: PaymentStatus = PaymentStatus.REQUIRES_CONFIRMATION
    charges: int = 0
    refunded_cents: int = 0
    disputes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Cents and status by id."""

    @property
    def held_cents(self) -> int:
        """What refunds and disputes, open or lost, have taken back of it."""
        disputed = sum(cents for cents, status in self.disputes.values() if status != "won")
        return min(self.amount_cents, self.refunded_cents + disputed)


class Provider:
    """Raises ProviderUnavailable as often as `trouble` says: half of the time it has done what it was asked."""

    def __init__(self, random: Random, trouble: float) -> None:
        self._random = random
        self.trouble = trouble
        self.intents: dict[str, Intent] = {}
        self.events: list[bytes] = []
        """Not delivered yet."""
        self._numbers = itertools.count(1)

    async def _carry(self, act: Callable[[], Any]) -> Any:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
        if self._random.random() < self.trouble / 2:
            raise ProviderUnavailable("nothing was done")
        done = act()
        if self._random.random() < self.trouble / 2:
            raise ProviderUnavailable("it was done")
        return done

    def _say(self, kind: str, intent: Intent, **more: Any) -> None:
        about = {"payment_intent": intent.id} if kind.startswith("charge") else {"id": intent.id}
        about |= {"amount": intent.amount_cents, "metadata": {"purchaseId": str(intent.purchase_id)}}
        self.events.append(event(kind, about | more))

    # -- the port --------------------------------------------------------------------------------------------------

    async def create(self, purchase_id: UUID, user_id: str, amount_cents: int, payment_method_id: str) -> Payment:
        def act() -> Payment:
            intent = Intent(f"pi_{next(self._numbers)}", purchase_id, amount_cents, payment_method_id)
            self.intents[intent.id] = intent
            return _shown(intent)

        return await self._carry(act)

    async def find(self, purchase_id: UUID, made_after: datetime) -> Payment | None:
        def act() -> Payment | None:
            return next((_shown(one) for one in self.intents.values() if one.purchase_id == purchase_id), None)

        return await self._carry(act)

    async def payment(self, payment_id: str) -> Payment:
        return await self._carry(lambda: _shown(self.intents[payment_id]))

    async def confirm(self, payment_id: str, purchase_id: UUID) -> Payment:
        def act() -> Payment:
            intent = self.intents[payment_id]
            if intent.status is not PaymentStatus.REQUIRES_CONFIRMATION:
                raise ProviderRefused("payment_intent_unexpected_state", "")
            match intent.method:
                case "pm_pays":
                    self._charge(intent)
                case "pm_declines":
                    self._fail(intent)
                case "pm_asks":
                    intent.status = PaymentStatus.REQUIRES_ACTION
                case _:
                    intent.status = PaymentStatus.PROCESSING
            return _shown(intent)

        return await self._carry(act)

    async def cancel(self, payment_id: str) -> Payment:
        def act() -> Payment:
            intent = self.intents[payment_id]
            if intent.status not in CANCELLABLE:
                raise ProviderRefused("payment_intent_unexpected_state", "")
            intent.status = PaymentStatus.CANCELED
            self._say("payment_intent.canceled", intent)
            return _shown(intent)

        return await self._carry(act)

    async def refund(self, payment_id: str, purchase_id: UUID, amount_cents: int, ordered_at: datetime) -> None:
        await self._carry(lambda: self.pay_back(self.intents[payment_id], amount_cents))

    async def refunded_cents(self, payment_id: str) -> int:
        return await self._carry(lambda: self.intents[payment_id].refunded_cents)

    async def payment_of_charge(self, charge_id: str) -> str | None:
        raise AssertionError("every event here names its payment")

    # -- what others do --------------------------------------------------------------------------------------------

    def _charge(self, intent: Intent) -> None:
        intent.status, intent.charges = PaymentStatus.SUCCEEDED, intent.charges + 1
        self._say("payment_intent.succeeded", intent, amount_received=intent.amount_cents)

    def _fail(self, intent: Intent) -> None:
        intent.status = PaymentStatus.REQUIRES_PAYMENT_METHOD
        self._say("payment_intent.payment_failed", intent)

    def waiting(self) -> list[Intent]:
        """For their buyer or their bank."""
        pending = {PaymentStatus.REQUIRES_ACTION, PaymentStatus.PROCESSING}
        return [intent for intent in self.intents.values() if intent.status in pending]

    def charged(self) -> list[Intent]:
        return [intent for intent in self.intents.values() if intent.charges]

    def decide(self, intent: Intent, *, pays: bool) -> None:
        """The buyer has authenticated or not, or the bank has made up its mind."""
        (self._charge if pays else self._fail)(intent)

    def pay_again(self, intent: Intent) -> None:
        """A buyer whose authentication failed tries another card before the payment is cancelled."""
        if intent.status is PaymentStatus.REQUIRES_PAYMENT_METHOD and intent.method == ASKS:
            self._charge(intent)

    def pay_back(self, intent: Intent, cents: int) -> None:
        if intent.refunded_cents + cents > intent.amount_cents:
            raise ProviderRefused("charge_already_refunded", "")
        intent.refunded_cents += cents
        self._say("charge.refunded", intent, amount_refunded=intent.refunded_cents)

    def dispute(self, intent: Intent, cents: int) -> None:
        dispute_id = f"dp_{next(self._numbers)}"
        intent.disputes[dispute_id] = (cents, "needs_response")
        self._say("charge.dispute.created", intent, id=dispute_id, amount=cents, status="needs_response")

    def disputed(self) -> list[tuple[Intent, str]]:
        """Payments with a dispute that is not decided yet."""
        return [
            (intent, dispute_id)
            for intent in self.charged()
            for dispute_id, (_, status) in intent.disputes.items()
            if status == "needs_response"
        ]

    def close(self, intent: Intent, dispute_id: str, end: str) -> None:
        """Decide it, once: a bank does not take back what it has said."""
        cents, status = intent.disputes[dispute_id]
        assert status == "needs_response"
        intent.disputes[dispute_id] = (cents, end)
        self._say("charge.dispute.closed", intent, id=dispute_id, amount=cents, status=end)


def _shown(intent: Intent) -> Payment:
    code = "generic_decline" if intent.status is PaymentStatus.REQUIRES_PAYMENT_METHOD else None
    return Payment(intent.id, intent.status, intent.amount_cents, f"{intent.id}_secret_x", code)
