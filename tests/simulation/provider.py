"""Stripe as it is seen from here: payments, refunds, disputes, and an event about each thing that happens to them.

Whatever it is asked twice it does once. What it says of itself is the truth the books are held against.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from realtime.adapters.stripe_gateway import Payment, PaymentStatus, ProviderRefused
from tests.simulation.rules import Broken

if TYPE_CHECKING:
    from tests.simulation.history import History

CARDS = ("good", "declined", "asks", "slow", "unknown")
NAMES_ITS_PAYMENT = 0.8
"""How many charges' events do; of the others the provider must be asked."""

EVENT_OF = {
    PaymentStatus.SUCCEEDED: "payment_intent.succeeded",
    PaymentStatus.REQUIRES_ACTION: "payment_intent.requires_action",
    PaymentStatus.PROCESSING: "payment_intent.processing",
    PaymentStatus.REQUIRES_PAYMENT_METHOD: "payment_intent.payment_failed",
    PaymentStatus.CANCELED: "payment_intent.canceled",
}
OPEN, INQUIRY = "needs_response", "warning_needs_response"
CLOSED = ("won", "lost", "warning_closed")
HOLDS_MONEY = {OPEN, "lost"}


@dataclass(slots=True)
class Dispute:
    id: str
    cents: int
    status: str
    held_once: bool = False
    """It has taken the money, whether or not it was given back since."""


@dataclass(slots=True)
class Intent:
    payment: Payment
    purchase_id: UUID
    card: str
    charges: int = 0
    refunds: dict[str, int] = field(default_factory=dict)
    """Cents by the key each was asked for with."""
    refunded_by_hand: bool = False
    disputes: list[Dispute] = field(default_factory=list)

    @property
    def refunded_cents(self) -> int:
        return sum(self.refunds.values())

    @property
    def disputed_cents(self) -> int:
        return sum(one.cents for one in self.disputes if one.status in HOLDS_MONEY)


@dataclass(slots=True)
class Event:
    id: str
    body: bytes
    delivered: bool = False
    """It was answered 200, and is not sent again by rule; it may be by accident."""


class Provider:
    def __init__(self, history: History) -> None:
        self._history = history
        self.intents: dict[str, Intent] = {}
        self.events: list[Event] = []

    def made(self, payment: Payment, purchase_id: UUID, card: str) -> None:
        self.intents[payment.id] = Intent(payment, purchase_id, card)

    def charged(self, purchase_id: UUID) -> list[Intent]:
        return [one for one in self.intents.values() if one.purchase_id == purchase_id and one.charges]

    def paid(self) -> list[Intent]:
        return [one for one in self.intents.values() if one.charges]

    def disputes(self) -> Iterator[Dispute]:
        return (dispute for one in self.intents.values() for dispute in one.disputes)

    # -- payments --------------------------------------------------------------------------------------------------

    def move(self, payment_id: str, status: PaymentStatus, **more: Any) -> Payment:
        one = self.intents[payment_id]
        one.charges += status is PaymentStatus.SUCCEEDED and one.payment.status is not status
        one.payment = replace(one.payment, status=status, **more)
        self._history.note(f"provider: {payment_id} {status}")
        self._history.books.check_charges(one.purchase_id)
        about = {"id": payment_id, "amount": one.payment.amount_cents, "metadata": {"purchaseId": str(one.purchase_id)}}
        self._tell(EVENT_OF[status], about)
        return one.payment

    def authenticate(self, payment_id: str, *, success: bool) -> None:
        """The buyer has been at their bank."""
        if self.intents[payment_id].payment.status is PaymentStatus.REQUIRES_ACTION:
            self.move(payment_id, PaymentStatus.SUCCEEDED if success else PaymentStatus.REQUIRES_PAYMENT_METHOD)

    def settle(self, payment_id: str) -> None:
        """What the provider was still working on is done."""
        if self.intents[payment_id].payment.status is PaymentStatus.PROCESSING:
            self.move(payment_id, PaymentStatus.SUCCEEDED)

    # -- refunds and disputes --------------------------------------------------------------------------------------

    def pay_back(self, payment_id: str, cents: int, key: str) -> None:
        """Raises ProviderRefused for a payment whose money somebody else holds, and for more than is left of it."""
        one = self.intents[payment_id]
        if key in one.refunds:
            return
        if one.disputed_cents:
            raise ProviderRefused("charge_disputed", "the payment is disputed")
        if one.refunded_cents + cents > one.payment.amount_cents:
            if not one.refunded_by_hand:  # of what it paid back by itself it has told whoever asked
                self._history.fail(Broken(f"asked to pay back more than was paid: {one}"))
            raise ProviderRefused("charge_already_refunded", "more than is left")
        one.refunds[key] = cents
        self._history.note(f"provider: {payment_id} pays {cents} back")
        self._tell_charge("charge.refunded", payment_id, amount_refunded=one.refunded_cents)

    def pay_back_by_hand(self, payment_id: str, cents: int) -> None:
        """Somebody at the provider's own pages does it."""
        one = self.intents[payment_id]
        if not one.disputed_cents and one.refunded_cents + cents <= one.payment.amount_cents:
            one.refunded_by_hand = True
            self.pay_back(payment_id, cents, f"by hand {len(one.refunds)}")

    def dispute(self, payment_id: str, cents: int, status: str) -> None:
        one = self.intents[payment_id]
        opened = Dispute(f"dp_{payment_id}_{len(one.disputes) + 1}", cents, "")
        one.disputes.append(opened)
        self.move_dispute(payment_id, opened, status)

    def move_dispute(self, payment_id: str, dispute: Dispute, status: str) -> None:
        kind = "closed" if status in CLOSED else "updated" if dispute.status else "created"
        dispute.status = status
        dispute.held_once |= status in HOLDS_MONEY
        self._history.note(f"provider: {dispute.id} {status}")
        self._tell_charge(f"charge.dispute.{kind}", payment_id, id=dispute.id, amount=dispute.cents, status=status)

    # -- events ----------------------------------------------------------------------------------------------------

    def _tell_charge(self, kind: str, payment_id: str, **about: Any) -> None:
        if self._history.random.random() < NAMES_ITS_PAYMENT:
            about["payment_intent"] = payment_id
        self._tell(kind, about | ({} if "id" in about else {"id": charge_of(payment_id)}) | {
            "charge": charge_of(payment_id), "object": "dispute" if "dispute" in kind else "charge",
        })  # fmt: skip

    def _tell(self, kind: str, about: Mapping[str, Any]) -> None:
        event_id = f"evt_{len(self.events) + 1}"
        body = json.dumps({"id": event_id, "type": kind, "data": {"object": about}}).encode()
        self.events.append(Event(event_id, body))


def charge_of(payment_id: str) -> str:
    return payment_id.replace("pi_", "ch_")


def payment_of(charge_id: str) -> str:
    return charge_id.replace("ch_", "pi_")
