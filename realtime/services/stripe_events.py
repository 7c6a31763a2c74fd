"""Stripe's events: each kept once, and taking effect once, in whatever order and however often they come.

An event is kept before anything else, so that the answer 200 is true; it takes effect at once, or by a job if
something it needs is away. Where order matters the event is not believed: a success is final and refunds are
cumulative, but of a payment that failed the provider is asked how it stands now.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

import structlog

from ledger.journals import TransactionType
from realtime.adapters import purchases_store
from realtime.adapters.logs import in_words
from realtime.adapters.purchases_store import KeptEvent
from realtime.adapters.stripe_gateway import Gateway, Payment, PaymentStatus
from realtime.domain import errors
from realtime.domain.purchase import Status
from realtime.services import jobs, purchase_ledger
from realtime.services.calls import Transactions
from realtime.services.news import News
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.pushes import Pushes

log = structlog.get_logger()

RETRY_IN_S = 15.0
EVENTS_A_ROUND = 200

SUCCEEDED = "payment_intent.succeeded"
ASKED_AGAIN = frozenset(
    {
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.processing",
        "payment_intent.requires_action",
    }
)
REFUNDED = "charge.refunded"
DISPUTES = frozenset({"charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"})
DISPUTE_ENDS = {"won": "won", "lost": "lost", "warning_closed": "won"}
"""How a closed dispute ended; an inquiry that was closed took nothing."""
INQUIRIES = "warning_"
"""Statuses of a dispute that has not taken money (an inquiry) begin so."""


class Observer(Protocol):
    def stripe_event(self, outcome: str) -> None:
        """An event has taken effect, or needs none."""


class StripeEvents:
    def __init__(
        self, *, db: Transactions, gateway: Gateway, records: PurchaseRecords, out: Pushes, observer: Observer
    ) -> None:
        self._db = db
        self._gateway = gateway
        self._records = records
        self._out = out
        self._observer = observer

    async def receive(self, body: bytes) -> str:
        """Keep an event whose signature holds, and let it take effect; answers what became of it.

        Raises InvalidPayload for what is no event.
        """
        event_id, kind, facts = _facts(body)
        async with self._db.begin() as conn:
            if not await purchases_store.note_event(conn, event_id, kind, facts):
                return "repeated"
            await jobs.defer(conn, "apply_stripe_event", in_s=RETRY_IN_S, event_id=event_id)
        try:
            return await self.apply(event_id)
        except Exception as error:
            log.warning("an event takes effect later", event_id=event_id, type=kind, error=in_words(error))
            return "kept"

    async def apply(self, event_id: str) -> str:
        """Let a kept event take effect, if it has not. Raises what keeps it from it, to be tried again."""
        async with self._db.connection() as conn:
            event = await purchases_store.event(conn, event_id)
        if event is None:
            return "applied"
        payment_id, charge_id = event.facts["paymentIntentId"], event.facts["chargeId"]
        is_reversal = event.type == REFUNDED or event.type in DISPUTES
        if is_reversal and payment_id is None and charge_id is not None:
            payment_id = await self._gateway.payment_of_charge(charge_id)
        async with self._db.connection() as conn:
            purchase_id = await purchases_store.of_payment(conn, payment_id, _uuid(event.facts["purchaseId"]))
        if purchase_id is None:
            return await self._finish(event, "unknown")
        if event.type == SUCCEEDED or event.type in ASKED_AGAIN:
            return await self._apply_payment(event, purchase_id)
        if is_reversal:
            return await self._apply_reversal(event, purchase_id)
        return await self._finish(event, "ignored")

    async def _apply_payment(self, event: KeptEvent, purchase_id: UUID) -> str:
        async with self._db.connection() as conn:
            purchase = await purchases_store.get(conn, purchase_id)
        assert purchase is not None
        payment_id = event.facts["paymentIntentId"]
        if purchase.status is Status.CLAIMED or purchase.payment_intent_id != payment_id:
            # Made for this purchase, but not the payment we confirm: a second one of a retry that was overtaken.
            if event.type == SUCCEEDED:
                log.error("a payment nobody confirmed was charged", purchase_id=str(purchase_id), payment_id=payment_id)
            return await self._finish(event, "not_ours")
        if event.type == SUCCEEDED:
            if event.facts["amountCents"] not in {None, purchase.amount_cents}:
                log.error("a payment of another amount than its purchase", purchase_id=str(purchase_id))
                return await self._finish(event, "wrong_amount")
            payment = Payment(payment_id, PaymentStatus.SUCCEEDED, purchase.amount_cents)
        else:
            payment = await self._gateway.payment(payment_id)
        await self._records.record(purchase_id, payment)
        return await self._finish(event, "applied")

    async def _apply_reversal(self, event: KeptEvent, purchase_id: UUID) -> str:
        news = News()
        async with self._db.begin() as conn:
            if await purchases_store.lock_event(conn, event.id) is None:
                return "applied"
            if event.type == REFUNDED:
                refunded_cents = event.facts["refundedCents"] or 0
                await purchase_ledger.note_refunded(conn, purchase_id, refunded_cents, news, actor="stripe")
            else:
                await self._note_dispute(conn, purchase_id, event, news)
            await purchases_store.finish_event(conn, event.id, "applied")
        self._observer.stripe_event("applied")
        await news.tell(self._out)
        return "applied"

    async def _note_dispute(self, conn: Any, purchase_id: UUID, event: KeptEvent, news: News) -> None:
        facts = event.facts
        status = str(facts["disputeStatus"] or "")
        if status.startswith(INQUIRIES) and status not in DISPUTE_ENDS:
            return
        ended = DISPUTE_ENDS.get(status)  # of an event of any type: each of these is the last a dispute has
        purchase = await purchases_store.lock(conn, purchase_id)
        assert purchase is not None
        amount_cents = facts["amountCents"] or purchase.amount_cents
        held_cents = await purchases_store.note_dispute(
            conn, facts["disputeId"], purchase_id, amount_cents, ended or "open"
        )
        grown = held_cents >= purchase.disputed_cents
        cause = TransactionType.DISPUTE if grown else TransactionType.DISPUTE_REVERSAL
        disputed = replace(purchase, disputed_cents=held_cents)
        await purchase_ledger.reverse(conn, disputed, cause, news, actor="stripe")

    async def _finish(self, event: KeptEvent, outcome: str) -> str:
        async with self._db.connection() as conn:
            first = await purchases_store.finish_event(conn, event.id, outcome)
        if first:
            self._observer.stripe_event(outcome)
        return outcome

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def apply_kept(self, event_id: str) -> None:
        try:
            await self.apply(event_id)
        except Exception:
            async with self._db.connection() as conn:
                await purchases_store.note_attempt(conn, event_id)
            raise

    async def apply_pending(self) -> None:
        """Events that were kept and came to nothing so far. One that cannot be applied does not hold up the others."""
        async with self._db.connection() as conn:
            pending = await purchases_store.pending_events(conn, RETRY_IN_S, EVENTS_A_ROUND)
        for event_id in pending:
            try:
                await self.apply_kept(event_id)
            except Exception as error:
                log.warning("an event still waits", event_id=event_id, error=in_words(error))


def _facts(body: bytes) -> tuple[str, str, dict[str, Any]]:
    """What we keep of an event: ids, amounts and states; no names, cards or secrets."""
    try:
        event = json.loads(body)
        event_id, kind, about = event["id"], event["type"], event["data"]["object"]
        if not (isinstance(event_id, str) and 0 < len(event_id) <= 255 and isinstance(kind, str) and len(kind) <= 255):
            raise TypeError
        is_payment, is_dispute = kind.startswith("payment_intent."), kind.startswith("charge.dispute.")
        is_charge = about.get("object") == "charge"
        metadata = about.get("metadata") or {}
        return event_id, kind, {
            "paymentIntentId": _text(about.get("id") if is_payment else _id_of(about.get("payment_intent"))),
            "chargeId": _text(about.get("id") if is_charge else _id_of(about.get("charge"))),
            "purchaseId": _text(metadata.get("purchaseId")) if is_payment else None,
            "amountCents": _cents(about.get("amount_received") or about.get("amount")),
            "refundedCents": _cents(about.get("amount_refunded")),
            "disputeId": _text(about.get("id")) if is_dispute else None,
            "disputeStatus": _text(about.get("status")) if is_dispute else None,
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise errors.InvalidPayload("the body is not an event") from None


def _id_of(value: Any) -> Any:
    """Objects come as their id, or whole where they were expanded."""
    return value.get("id") if isinstance(value, dict) else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 255 and "\x00" not in value else None


def _cents(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _uuid(value: str | None) -> UUID | None:
    try:
        return UUID(value) if value else None
    except ValueError:
        return None
