"""Stripe behind the few questions this server asks of a payment provider, through Stripe's own library.

A payment is made unconfirmed and then confirmed by its id, so that whatever is sent twice is charged once, even where
idempotency keys are not kept (Stripe keeps them for a day at least; a stand-in may not know them at all).

Amounts are US cents. Nothing of an answer is logged but its kind and Stripe's request id.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import aiohttp
import stripe
import structlog

from ledger.stripe_api import API_VERSION
from realtime.adapters.logs import in_words

log = structlog.get_logger()

CURRENCY = "usd"
REQUEST_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
RETRIES = 2
PAGE = 100
CLOCKS_DIFFER_BY = timedelta(minutes=10)
WEBHOOK_TOLERANCE_S = 300


class ProviderUnavailable(Exception):
    """No answer, or none that says what became of it: asking again later helps."""


class ProviderRefused(Exception):
    """The provider understood and does not do it."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.param = param


class PaymentStatus(StrEnum):
    """Stripe's states of a PaymentIntent, by its own names."""

    REQUIRES_PAYMENT_METHOD = "requires_payment_method"
    REQUIRES_CONFIRMATION = "requires_confirmation"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    REQUIRES_CAPTURE = "requires_capture"
    CANCELED = "canceled"
    SUCCEEDED = "succeeded"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as the provider has it."""

    id: str
    status: PaymentStatus
    amount_cents: int
    client_secret: str | None = None
    """With this a browser can authenticate and confirm the payment; it goes to the buyer and nowhere else."""
    decline_code: str | None = None
    message: str | None = None


class Gateway(Protocol):
    """What a payment provider does for us. Each raises ProviderUnavailable and ProviderRefused."""

    async def create(self, purchase_id: UUID, user_id: str, amount_cents: int, payment_method_id: str) -> Payment:
        """Make the purchase's payment, unconfirmed."""

    async def find(self, purchase_id: UUID, made_after: datetime) -> Payment | None:
        """The payment that carries the purchase's id, if one was made."""

    async def payment(self, payment_id: str) -> Payment:
        """The payment as it stands."""

    async def confirm(self, payment_id: str, purchase_id: UUID) -> Payment:
        """Charge it, or find out what keeps it from being charged. A decline is an answer, not an error."""

    async def cancel(self, payment_id: str) -> Payment:
        """See that it can never be charged. Refused if it was."""

    async def refund(self, payment_id: str, purchase_id: UUID, amount_cents: int, ordered_at: datetime) -> None:
        """Pay `amount_cents` back, as it was ordered then."""

    async def refunded_cents(self, payment_id: str) -> int:
        """What was paid back so far."""

    async def payment_of_charge(self, charge_id: str) -> str | None:
        """The payment a charge belongs to; None for a charge of another kind, or one that is not there."""


class Observer(Protocol):
    def vendor_request(self, vendor: str, operation: str, outcome: str, seconds: float) -> None:
        """A request to a vendor has been answered, refused, or came to nothing."""


class StripeGateway:
    def __init__(self, *, secret_key: str, api_base: str, observer: Observer) -> None:
        self._observer = observer
        self._http = stripe.AIOHTTPClient(
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        )
        self._stripe = stripe.StripeClient(
            secret_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base},
            http_client=self._http,
            max_network_retries=RETRIES,
        )

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def create(self, purchase_id: UUID, user_id: str, amount_cents: int, payment_method_id: str) -> Payment:
        wanted: Any = {
            "amount": amount_cents,
            "currency": CURRENCY,
            "payment_method": payment_method_id,
            "payment_method_types": ["card"],
            "metadata": {"purchaseId": str(purchase_id), "userId": user_id},
        }
        made = await self._answer(
            "create",
            self._stripe.v1.payment_intents.create_async(wanted, {"idempotency_key": f"purchase:{purchase_id}:create"}),
        )
        return _payment(made)

    async def find(self, purchase_id: UUID, made_after: datetime) -> Payment | None:
        since = int((made_after - CLOCKS_DIFFER_BY).timestamp())
        async for intent in self._since(since):
            if (intent.get("metadata") or {}).get("purchaseId") == str(purchase_id):
                return _payment(intent)
        return None

    async def _since(self, epoch_s: int) -> AsyncIterator[Any]:
        """Every payment made since then: a listing, since Stripe's search lags behind by up to a minute."""
        params: Any = {"limit": PAGE, "created": {"gte": epoch_s}}
        while True:
            try:
                page = await self._answer("list", self._stripe.v1.payment_intents.list_async(params))
            except ProviderRefused:
                if "created" not in params:
                    raise
                del params["created"]  # localstripe does not know the filter, and has few payments
                continue
            for intent in page["data"]:
                yield intent
            if not page["has_more"] or not page["data"]:
                return
            params = {**params, "starting_after": page["data"][-1]["id"]}

    async def payment(self, payment_id: str) -> Payment:
        return _payment(await self._answer("retrieve", self._stripe.v1.payment_intents.retrieve_async(payment_id)))

    async def confirm(self, payment_id: str, purchase_id: UUID) -> Payment:
        try:
            confirmed = await self._answer(
                "confirm",
                self._stripe.v1.payment_intents.confirm_async(
                    payment_id, None, {"idempotency_key": f"purchase:{purchase_id}:confirm"}
                ),
            )
        except _Declined as declined:
            return Payment(
                id=payment_id,
                status=PaymentStatus.REQUIRES_PAYMENT_METHOD,
                amount_cents=0,
                decline_code=declined.code,
                message=declined.message,
            )
        return _payment(confirmed)

    async def cancel(self, payment_id: str) -> Payment:
        return _payment(await self._answer("cancel", self._stripe.v1.payment_intents.cancel_async(payment_id)))

    async def refund(self, payment_id: str, purchase_id: UUID, amount_cents: int, ordered_at: datetime) -> None:
        # Stripe answers a key as it did before, refusals included: an order of a later time needs one of its own.
        key = f"purchase:{purchase_id}:refund:{amount_cents}:{ordered_at.timestamp():.6f}"
        await self._answer(
            "refund",
            self._stripe.v1.refunds.create_async(
                {
                    "payment_intent": payment_id,
                    "amount": amount_cents,
                    "metadata": {"purchaseId": str(purchase_id)},
                },
                # Not repeated by the library: whoever asks again looks first whether it was made.
                {"idempotency_key": key, "max_network_retries": 0},
            ),
        )

    async def refunded_cents(self, payment_id: str) -> int:
        total = 0
        params: Any = {"payment_intent": payment_id, "limit": PAGE}
        while True:
            page = await self._answer("list_refunds", self._stripe.v1.refunds.list_async(params))
            total += sum(int(r["amount"]) for r in page["data"] if r.get("status") not in {"failed", "canceled"})
            if not page["has_more"] or not page["data"]:
                return total
            params = {**params, "starting_after": page["data"][-1]["id"]}

    async def payment_method_of(self, number: str, exp_month: int, exp_year: int, cvc: str) -> str:
        """A payment method made of a test card's figures: for a stand-in only. Real cards go from browser to Stripe."""
        card: Any = {"number": number, "exp_month": exp_month, "exp_year": exp_year, "cvc": cvc}
        call = self._stripe.v1.payment_methods.create_async({"type": "card", "card": card})
        made = await self._answer("create_payment_method", call)
        return str(made["id"])

    async def payment_of_charge(self, charge_id: str) -> str | None:
        try:
            charge = await self._answer("retrieve_charge", self._stripe.v1.charges.retrieve_async(charge_id))
        except ProviderRefused:
            return None
        payment = charge.get("payment_intent")
        return payment.get("id") if isinstance(payment, dict) else payment

    async def _answer(self, operation: str, call: Awaitable[Any]) -> dict[str, Any]:
        started, outcome = time.perf_counter(), "given_up"
        try:
            answer = await _plain(call)
            outcome = "answered"
            return answer
        except ProviderRefused:
            outcome = "refused"
            raise
        except ProviderUnavailable:
            outcome = "unavailable"
            raise
        finally:
            self._observer.vendor_request("stripe", operation, outcome, time.perf_counter() - started)


class _Declined(ProviderRefused):
    """The card was refused; `code` is Stripe's decline code."""


async def _plain(call: Awaitable[Any]) -> dict[str, Any]:
    """Stripe's answer as plain data, its errors as ours."""
    try:
        answer = await call
    except stripe.CardError as error:
        code = getattr(error.error, "decline_code", None) or error.code or "card_declined"
        raise _Declined(str(code), error.user_message or "") from None
    except stripe.InvalidRequestError as error:
        log.warning(
            "stripe refused a request",
            code=error.code,
            http_status=error.http_status,
            stripe_request_id=error.request_id,
        )
        code = error.code or ("resource_missing" if error.http_status == 404 else "invalid_request")
        raise ProviderRefused(str(code), error.user_message or "", error.param) from None
    except stripe.StripeError as error:
        log.warning(
            "stripe cannot answer",
            error=in_words(error.__cause__ or error),
            http_status=error.http_status,
            stripe_request_id=error.request_id,
        )
        raise ProviderUnavailable(type(error).__name__) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("stripe cannot be reached", error=in_words(error))
        raise ProviderUnavailable(type(error).__name__) from None
    plain: dict[str, Any] = answer.to_dict()
    return plain


def _payment(intent: Any) -> Payment:
    error = intent.get("last_payment_error") or {}
    return Payment(
        id=intent["id"],
        status=PaymentStatus(intent["status"]),
        amount_cents=intent["amount"],
        client_secret=intent.get("client_secret"),
        decline_code=error.get("decline_code") or error.get("code"),
        message=error.get("message"),
    )


@asynccontextmanager
async def opened(gateway: StripeGateway) -> AsyncIterator[StripeGateway]:
    try:
        yield gateway
    finally:
        await gateway.close()


class SignatureInvalid(Exception):
    """No secret of ours made this signature over this body within the tolerance."""


def verify_signature(body: bytes, header: str | None, secrets: tuple[str, ...]) -> None:
    """Stripe's signature over the raw body, by any of the secrets (two in a rotation). Raises SignatureInvalid."""
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(body, header, secret, WEBHOOK_TOLERANCE_S)
        except (stripe.SignatureVerificationError, UnicodeDecodeError, TypeError):  # of a header beyond ASCII
            continue
        return
    raise SignatureInvalid
