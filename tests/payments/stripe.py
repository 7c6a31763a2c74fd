"""A Stripe for tests: localstripe in a process of its own, asked directly, and events signed as Stripe signs them."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

KEY = "sk_test_of_the_tests"
SECRET = "whsec_of_the_tests"
CARD = "4242424242424242"
DECLINED_CARD = "4000000000000341"
AUTHENTICATED_CARD = "4000002500003155"
DECLINED_IBAN = "DE62370400440532013001"

_numbers = itertools.count(1)


@dataclass(slots=True)
class Stripe:
    url: str
    http: aiohttp.ClientSession

    @property
    def settings(self) -> dict[str, str]:
        """What a server of ours needs to use it."""
        return {"STRIPE_SECRET_KEY": KEY, "STRIPE_API_BASE": self.url, "STRIPE_WEBHOOK_SECRET": SECRET}

    async def ask(self, method: str, path: str, **data: Any) -> Any:
        async with self.http.request(
            method, self.url + path, json=data or None, headers={"Authorization": f"Bearer {KEY}"}
        ) as answer:
            return await answer.json(content_type=None)

    async def card(self, number: str = CARD) -> str:
        """A payment method's id."""
        card = {"number": number, "exp_month": 12, "exp_year": 2030, "cvc": "123"}
        return str((await self.ask("POST", "/v1/payment_methods", type="card", card=card))["id"])

    async def bank_account(self, iban: str) -> str:
        return str((await self.ask("POST", "/v1/payment_methods", type="sepa_debit", sepa_debit={"iban": iban}))["id"])

    async def all(self, kind: str) -> list[dict[str, Any]]:
        """Every object of a kind: charges, payment_intents, refunds."""
        found: list[dict[str, Any]] = []
        while True:
            after = f"&starting_after={found[-1]['id']}" if found else ""
            page = await self.ask("GET", f"/v1/{kind}?limit=100{after}")
            found += page["data"]
            if not page["has_more"]:
                return found

    async def charges(self) -> list[dict[str, Any]]:
        """Charges that took money."""
        return [charge for charge in await self.all("charges") if charge["status"] == "succeeded"]

    async def authenticate(self, client_secret: str, *, success: bool = True) -> Any:
        payment_id = client_secret.split("_secret_", maxsplit=1)[0]
        return await self.ask(
            "POST",
            f"/v1/payment_intents/{payment_id}/_authenticate",
            key="pk_test_of_the_tests",
            client_secret=client_secret,
            success=success,
        )

    async def send_events_to(self, url: str, secret: str = SECRET) -> None:
        await self.ask("POST", "/_config/webhooks/tests", url=url, secret=secret)


def event(kind: str, about: dict[str, Any], event_id: str | None = None) -> bytes:
    event_id = event_id or f"evt_{time.time_ns()}_{next(_numbers)}"
    return json.dumps({"id": event_id, "object": "event", "type": kind, "data": {"object": about}}).encode()


def signed(body: bytes, secret: str = SECRET, at: int | None = None) -> dict[str, str]:
    """Stripe's header over a body."""
    at = int(time.time()) if at is None else at
    signature = hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={signature}", "Content-Type": "application/json"}
