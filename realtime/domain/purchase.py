"""One purchase of tokens, as a value, and its state machine: one table. What is not in it is refused.

A purchase passes recovery points, each committed before the next talk with the payment provider:

    claimed    the key, the daily allowance and this row are ours; nothing has been sent
    prepared   the provider has an unconfirmed payment, and its id is in the row. Only this one payment is ever
               confirmed, and a payment can be charged once: whatever is sent twice, the card is charged once

and ends as `succeeded` or `failed`. `decide(purchase, event)` answers the purchase as it then is and the effects the
shell must carry out in the same transaction or after it. The table's moves are also the `purchases` table's trigger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

MIN_CENTS = 50
"""The least the provider charges in US dollars."""
MAX_CENTS = 1_000_000


class Status(StrEnum):
    CLAIMED = "claimed"
    PREPARED = "prepared"
    REQUIRES_ACTION = "requires_action"
    """The buyer has to authenticate with their bank."""
    PROCESSING = "processing"
    """The provider has taken it on and does not know yet."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        return self in {Status.SUCCEEDED, Status.FAILED}


class Event(StrEnum):
    PREPARED = "prepared"
    """The provider has made the payment, unconfirmed."""
    SUCCEEDED = "succeeded"
    """The money was taken."""
    ACTION_REQUIRED = "action_required"
    PROCESSING = "processing"
    DECLINED = "declined"
    """The card was refused, or the buyer's authentication failed."""
    CANCELLED = "cancelled"
    """The payment can never be charged any more, or never came to be."""


class Effect(StrEnum):
    CREDIT = "credit"
    """Post the purchase's journal and answer the request, in the same transaction."""
    RELEASE_ALLOWANCE = "release_allowance"
    """Give the daily limit back what this purchase held of it."""
    RETAKE_ALLOWANCE = "retake_allowance"
    """Money was taken after all: it counts on its day, even beyond the limit."""
    CANCEL_PAYMENT = "cancel_payment"
    """Have the provider cancel the payment after the commit, so that nobody can confirm it later."""


class Transition(NamedTuple):
    status: Status
    effects: tuple[Effect, ...] = ()


_PAID = Transition(Status.SUCCEEDED, (Effect.CREDIT,))
_DECLINED = Transition(Status.FAILED, (Effect.RELEASE_ALLOWANCE, Effect.CANCEL_PAYMENT))
_CANCELLED = Transition(Status.FAILED, (Effect.RELEASE_ALLOWANCE,))
_SENT: Mapping[Event, Transition] = {
    Event.SUCCEEDED: _PAID,
    Event.ACTION_REQUIRED: Transition(Status.REQUIRES_ACTION),
    Event.PROCESSING: Transition(Status.PROCESSING),
    Event.DECLINED: _DECLINED,
    Event.CANCELLED: _CANCELLED,
}

TRANSITIONS: Mapping[Status, Mapping[Event, Transition]] = {
    Status.CLAIMED: {Event.PREPARED: Transition(Status.PREPARED), Event.CANCELLED: _CANCELLED},
    Status.PREPARED: _SENT,
    Status.REQUIRES_ACTION: _SENT,
    Status.PROCESSING: _SENT,
    # A success is final at the provider, so it wins over a failure we recorded before it (a buyer who authenticated
    # between the decline and our cancelling): money taken is always credited.
    Status.FAILED: {Event.SUCCEEDED: Transition(Status.SUCCEEDED, (Effect.RETAKE_ALLOWANCE, Effect.CREDIT))},
    Status.SUCCEEDED: {},
}


@dataclass(frozen=True, slots=True)
class Purchase:
    id: UUID
    user_id: str
    idempotency_key: str
    amount_cents: int
    tokens: int
    payment_method_id: str
    status: Status
    created_at: datetime
    spend_day: date
    """The UTC day whose allowance it takes."""
    payment_intent_id: str | None = None
    decline_code: str | None = None
    failure: str | None = None
    finished_at: datetime | None = None
    checks: int = 0
    """How often a job has asked the provider how it stands."""
    refunded_cents: int = 0
    """What the provider has paid back so far, as it says: a cumulative figure that only grows."""
    disputed_cents: int = 0
    """What disputes, open or lost, hold of it."""
    reversed_cents: int = 0
    """What of both the ledger has already booked."""
    reversed_tokens: int = 0
    owed_tokens: int = 0
    """Of the reversed tokens, those that had been spent and are the buyer's receivable."""
    adjustments: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    purchase: Purchase
    effects: tuple[Effect, ...] = ()


class NotPossible(Exception):
    """The table has no such event for this state, and it is not one that comes late: a fault of ours."""


REPEATABLE = frozenset(Event) - {Event.PREPARED}
"""Events the provider or a retry may bring late or again; where they are not listed they change nothing."""


def decide(
    purchase: Purchase, event: Event, *, decline_code: str | None = None, failure: str | None = None
) -> Decision:
    """What `event` makes of `purchase`. An event that comes late or twice leaves it as it is."""
    transition = TRANSITIONS[purchase.status].get(event)
    if transition is None:
        if event in REPEATABLE and purchase.status is not Status.CLAIMED:
            return Decision(purchase)
        raise NotPossible(f"a {purchase.status} purchase cannot meet {event}")
    failed = transition.status is Status.FAILED
    moved = replace(
        purchase,
        status=transition.status,
        decline_code=decline_code if failed else None,
        failure=failure if failed else None,
    )
    return Decision(moved, transition.effects)


def tokens_for(amount_cents: int, tokens_per_usd: int) -> int:
    """Whole tokens for whole cents; what does not make a token is not given."""
    return amount_cents * tokens_per_usd // 100


@dataclass(frozen=True, slots=True)
class Reversal:
    """What the ledger still has to book so that refunds and disputes are in it: positive is taken back."""

    cents: int
    tokens: int


def reversal(purchase: Purchase) -> Reversal:
    """Refunds and disputes can overlap, so never more than was bought; figures are cumulative, so never twice."""
    target_cents = min(purchase.amount_cents, purchase.refunded_cents + purchase.disputed_cents)
    target_tokens = purchase.tokens * target_cents // purchase.amount_cents
    return Reversal(target_cents - purchase.reversed_cents, target_tokens - purchase.reversed_tokens)


@dataclass(frozen=True, slots=True)
class Shares:
    """How a reversal falls on the buyer's two accounts; the parts add up to its tokens, sign included."""

    wallet_tokens: int
    owed_tokens: int


def shares(purchase: Purchase, due: Reversal, wallet_balance_tokens: int) -> Shares:
    """Take what the wallet holds and note the rest as owed; give back to what is owed first, then to the wallet."""
    if due.tokens >= 0:
        from_wallet = min(due.tokens, wallet_balance_tokens)
        return Shares(from_wallet, due.tokens - from_wallet)
    off_owed = min(-due.tokens, purchase.owed_tokens)
    return Shares(due.tokens + off_owed, -off_owed)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> claimed: key claimed, allowance held"]
    for status, events in TRANSITIONS.items():
        for event, (target, _) in events.items():
            lines.append(f"    {status} --> {target}: {event}")
    lines += [f"    {status} --> [*]" for status in Status if status.finished]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201
