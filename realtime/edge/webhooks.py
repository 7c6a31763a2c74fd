"""Webhooks: the signature is checked on the raw body before a byte of it is understood."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from realtime.adapters import stripe_gateway
from realtime.adapters.agora_notifications import Notification, verify_notification
from realtime.config import Settings
from realtime.domain.errors import InvalidPayload, PayloadTooLarge, SignatureInvalid
from realtime.edge.routes import Answer, Asked, Route, Who
from realtime.services.agora_events import AgoraEvents
from realtime.services.outages import Outage
from realtime.services.stripe_events import StripeEvents

MAX_EVENT_BYTES = 1024 * 1024
"""Larger than a client's requests may be: an event carries whole objects."""


class Received(BaseModel):
    received: Literal[True]
    outcome: str


def stripe_routes(settings: Settings, events: StripeEvents) -> list[Route]:
    secrets = settings.stripe_webhook_secret
    strangers = _strangers("STRIPE_WEBHOOK_SECRET")

    async def stripe(asked: Asked) -> Answer:
        body = await raw_body(asked.request)
        try:
            stripe_gateway.verify_signature(body, asked.request.headers.get("Stripe-Signature"), secrets)
        except stripe_gateway.SignatureInvalid as error:
            strangers.met(error)
            raise SignatureInvalid from None
        strangers.over()
        return Answer({"received": True, "outcome": await events.receive(body)})

    return [
        Route("POST", "/api/v1/webhooks/stripe", Who.ANYONE, stripe, "Stripe's events.",
              headers=("Stripe-Signature",), reads={"application/json": {"type": "object"}}, answer=Received,
              statuses=(400, 413, 503)),
    ]  # fmt: skip


def agora_routes(settings: Settings, events: AgoraEvents) -> list[Route]:
    secrets = settings.agora_webhook_secret
    strangers = _strangers("AGORA_WEBHOOK_SECRET")

    async def agora(asked: Asked) -> Answer:
        body, headers = await raw_body(asked.request), asked.request.headers
        signatures = headers.get("Agora-Signature-V2"), headers.get("Agora-Signature")
        if not any(verify_notification(secret, body, *signatures) for secret in secrets):
            refused = SignatureInvalid()
            strangers.met(refused)
            raise refused
        strangers.over()
        try:
            notification = Notification.model_validate_json(body)
        except ValueError:
            raise InvalidPayload("the body is not a notification") from None
        return Answer({"received": True, "outcome": await events.receive(notification.user_event())})

    return [
        Route("POST", "/api/v1/webhooks/agora", Who.ANYONE, agora, "Agora's notifications.",
              reads={"application/json": {"type": "object"}}, answer=Received, statuses=(400, 413, 503)),
    ]  # fmt: skip


def _strangers(setting: str) -> Outage:
    """Events no secret of ours signed: said when they begin, and when one that holds has come."""
    return Outage(
        waits=f"events come whose signature no {setting} holds: forged, or the secret is another at the sender",
        again=f"an event's signature holds {setting} again",
    )


async def raw_body(request: web.Request) -> bytes:
    """The body as it was sent. Raises PayloadTooLarge."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_EVENT_BYTES:
            raise PayloadTooLarge
    return bytes(body)
