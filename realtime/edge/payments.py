"""The routes that move money: purchases by the new route and the old one, an admin's grants and refunds."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, Field, StringConstraints

from realtime.adapters.stripe_gateway import ProviderRefused, ProviderUnavailable, StripeGateway
from realtime.config import Settings
from realtime.domain import errors
from realtime.domain.purchase import MAX_CENTS, MIN_CENTS, Status
from realtime.edge import wire
from realtime.edge.errors import http_answer, rate_limit_headers
from realtime.edge.routes import Answer, Asked, Route, TakesKey, Who
from realtime.services.grants import Grants
from realtime.services.idempotency import Kept, derived_key
from realtime.services.money_limits import Operation
from realtime.services.payments import OPERATION, Order, Payments, Standing
from realtime.services.pushes import iso
from realtime.services.refunds import Refunds

NEW_ROUTE = "/api/v1/payments/purchase-tokens"
OLD_ROUTE = "/api/payments/tokens/purchase"
DEPRECATED = {
    "Deprecation": f"@{int(datetime(2026, 11, 23, tzinfo=UTC).timestamp())}",
    "Link": f'<{NEW_ROUTE}>; rel="successor-version"',
}
"""What every answer of the old route says while there is a new one (RFC 9745, RFC 8288)."""
DERIVED_KEY_S = 60
"""For how long the same request of a client without keys is taken for a repetition: a double click or an automatic
retry, not somebody who buys the same again."""


class PurchaseTokens(wire.Payload):
    amountInCents: Annotated[int, Field(ge=MIN_CENTS, le=MAX_CENTS)]
    paymentMethodId: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{3,255}$")]


class RefundPurchase(wire.Payload):
    purchaseId: wire.CallId


class TestingCard(wire.Payload):
    number: Annotated[str, StringConstraints(pattern=r"^[0-9]{16}$")]
    expMonth: Annotated[int, Field(ge=1, le=12)]
    expYear: Annotated[int, Field(ge=2019, le=2099)]
    cvc: Annotated[str, StringConstraints(pattern=r"^[0-9]{3}$")]


class PaymentMethodMade(BaseModel):
    id: str


class Purchased(BaseModel):
    purchaseId: str
    status: Literal["succeeded", "requires_action", "processing"]
    tokens: int
    balance: int | None = None
    version: int | None = None
    clientSecret: str | None = None


class PurchaseAnswer(BaseModel):
    purchaseId: str
    status: Literal["processing", "requires_action", "succeeded", "failed"]
    amountInCents: int
    tokens: int
    refundedCents: int
    declineCode: str | None
    createdAt: str
    finishedAt: str | None
    clientSecret: str | None = None


class Granted(BaseModel):
    userId: str
    tokens: int
    balance: int
    version: int


class Refunded(BaseModel):
    purchaseId: str
    status: Literal["refunded", "processing"]
    refundedCents: int
    tokensTakenBack: int
    tokensOwed: int


def payment_routes(settings: Settings, payments: Payments) -> list[Route]:
    """The old route answers in both modes; the new ones are there with ENABLE_ENHANCED_FEATURES."""
    keep_s, enhanced = settings.idempotency_ttl_seconds, settings.enable_enhanced_features

    async def purchase(asked: Asked) -> web.Response:
        operation = _operation(asked, keep_s)
        return await _answered(operation, payments.buy(operation, _order(asked)))

    async def purchase_by_old_route(asked: Asked) -> web.Response:
        if asked.key is None:
            key = derived_key(asked.caller.user_id, OPERATION, asked.payload.model_dump(mode="json"))
            operation = Operation(asked.caller.user_id, key, DERIVED_KEY_S)
        else:
            operation = _operation(asked, keep_s)
        return await _answered(operation, payments.buy(operation, _order(asked)))

    async def one(asked: Asked) -> Answer:
        try:
            purchase_id = UUID(asked.path["purchaseId"])
        except ValueError:
            raise errors.NotFound("there is no such purchase") from None
        return Answer(_shown(await payments.get(asked.caller.user_id, purchase_id)))

    buying: dict[str, Any] = {
        "payload": PurchaseTokens,
        "answer": Purchased,
        "statuses": (402, 429),
        "also": {202: Purchased},
    }
    routes = [
        Route("POST", OLD_ROUTE, Who.USER, purchase_by_old_route, "Buy tokens, as older clients do.", **buying,
              takes_key=TakesKey.MAY, always=DEPRECATED if enhanced else {}),
    ]  # fmt: skip
    if enhanced:
        routes += [
            Route("POST", NEW_ROUTE, Who.USER, purchase, "Buy tokens.", **buying, takes_key=TakesKey.MUST),
            Route("GET", "/api/v1/payments/purchases/{purchaseId}", Who.USER, one, "One of one's own purchases.",
                  answer=PurchaseAnswer),
        ]  # fmt: skip
    return routes


def stand_in_routes(gateway: StripeGateway) -> list[Route]:
    """What Stripe's own form does in the browser, for pages of a server with a stand-in for Stripe.

    The stand-in makes payment methods for secret keys alone and answers no other origin's preflight.
    """

    async def payment_method(asked: Asked) -> Answer:
        card = asked.payload
        try:
            made = await gateway.payment_method_of(card.number, card.expMonth, card.expYear, card.cvc)
        except ProviderRefused as refused:
            raise errors.PaymentMethodInvalid(refused.message or None) from None
        except ProviderUnavailable:
            raise errors.PaymentsUnavailable from None
        return Answer({"id": made})

    return [
        Route("POST", "/dev/payment-methods", Who.USER, payment_method, "Development only: a test card to pay with.",
              payload=TestingCard, answer=PaymentMethodMade),
    ]  # fmt: skip


def admin_routes(settings: Settings, grants: Grants, refunds: Refunds) -> list[Route]:
    keep_s = settings.idempotency_ttl_seconds

    async def grant(asked: Asked) -> web.Response:
        operation = _operation(asked, keep_s)
        wanted = asked.payload
        return await _answered(
            operation, grants.give(operation, asked.caller, wanted.userId, wanted.tokens, wanted.reason)
        )

    async def refund(asked: Asked) -> web.Response:
        operation = _operation(asked, keep_s)
        return await _answered(operation, refunds.refund(operation, asked.payload.purchaseId))

    return [
        Route("POST", "/api/v1/admin/grants", Who.ADMIN, grant, "Give tokens to a user.",
              payload=wire.Grant, answer=Granted, takes_key=TakesKey.MUST),
        Route("POST", "/api/v1/admin/refunds", Who.ADMIN, refund, "Pay a purchase back.",
              payload=RefundPurchase, answer=Refunded, statuses=(404,), also={202: Refunded},
              takes_key=TakesKey.MUST),
    ]  # fmt: skip


def _operation(asked: Asked, keep_s: int) -> Operation:
    assert asked.key is not None, "the route must have a key, or the caller has seen to it"
    return Operation(asked.caller.user_id, asked.key, keep_s)


async def _answered(operation: Operation, work: Awaitable[Kept]) -> web.Response:
    """The answer to a request that moves money, refusals included, with what the limiter and the key have to say."""
    try:
        kept = await work
    except errors.Refused as refused:
        answer, replayed = http_answer(refused), False
    else:
        answer, replayed = _of_outcome(kept.outcome), kept.replayed
    if replayed:
        answer.headers["Idempotency-Replayed"] = "true"
    if (said := operation.allowance) is not None:
        answer.headers.update(rate_limit_headers(said.policy, said.limit, said.window_s, said.remaining, said.reset_s))
    return answer


PENDING = frozenset({"requires_action", "processing"})


def _of_outcome(outcome: dict[str, Any]) -> web.Response:
    if "refused" in outcome:
        refused = errors.KEPT[outcome["refused"]]
        return http_answer(refused(outcome["message"], **outcome["details"]))
    status = HTTPStatus.ACCEPTED if outcome.get("status") in PENDING else HTTPStatus.OK
    return Answer(outcome, status).response()


def _order(asked: Asked) -> Order:
    return Order(asked.payload.amountInCents, asked.payload.paymentMethodId)


def _shown(standing: Standing) -> dict[str, Any]:
    purchase = standing.purchase
    pending = purchase.status in {Status.CLAIMED, Status.PREPARED}
    return {
        "purchaseId": str(purchase.id),
        "status": Status.PROCESSING.value if pending else purchase.status.value,
        "amountInCents": purchase.amount_cents,
        "tokens": purchase.tokens,
        "refundedCents": purchase.refunded_cents,
        "declineCode": purchase.decline_code,
        "createdAt": iso(purchase.created_at),
        "finishedAt": iso(purchase.finished_at),
        **({"clientSecret": standing.client_secret} if standing.client_secret else {}),
    }
