"""Compares the clearing account with what Stripe says it charged and paid back, payment by payment.

Stripe is read first and the ledger after it, so that a payment made meanwhile is in the ledger or in flight, and never
missing from it. Amounts are US cents.

What is in a month that was detached cannot be compared. Payments that Stripe charged before the months that are kept
are left out, their later refunds too, unless the charge was booked in a month that is kept.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import stripe
from dotenv import dotenv_values

from ledger.database_url import DatabaseUrl
from ledger.snapshot import snapshot
from ledger.sql import load
from ledger.stripe_api import API_VERSION

SQL = load("ledger.sql", "reconcile.sql")
STRIPE = "https://api.stripe.com"
STAND_IN = Path(".data/stripe.json")
PAGE = 100


class NoStripe(Exception):
    """The message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class StripeAccount:
    """Where Stripe answers, and the secret key it answers to."""

    secret_key: str
    api_base: str


@dataclass(slots=True)
class Sums:
    """One payment's money, in cents."""

    charged: int = 0
    back: int = 0
    """Refunded, or held by a dispute that is open or lost; together at most what was charged."""


@dataclass(frozen=True, slots=True)
class Difference:
    payment: str
    at_stripe: Sums
    in_ledger: Sums

    def __str__(self) -> str:
        return (
            f"{self.payment}: Stripe charged {_usd(self.at_stripe.charged)} and gave back {_usd(self.at_stripe.back)},"
            f" the ledger has {_usd(self.in_ledger.charged)} and {_usd(self.in_ledger.back)}"
        )


@dataclass(frozen=True, slots=True)
class Reconciliation:
    payments: int
    at_stripe_cents: int
    in_ledger_cents: int
    in_flight: int
    differences: tuple[Difference, ...]
    without_disputes: bool
    """The provider could not be asked for disputes (a stand-in has none)."""
    since: datetime | None
    """Older payments are not compared: their month was detached. None while none was."""


def account(environ: Mapping[str, str] = os.environ, dotenv: Path = Path(".env")) -> StripeAccount:
    """STRIPE_SECRET_KEY and STRIPE_API_BASE of environment or `.env`, else the running stand-in's. Raises NoStripe."""
    settings = {**(dotenv_values(dotenv) if dotenv.is_file() else {}), **environ}
    if key := settings.get("STRIPE_SECRET_KEY"):
        return StripeAccount(key, settings.get("STRIPE_API_BASE") or STRIPE)
    try:
        return StripeAccount("sk_test_stand_in", json.loads(STAND_IN.read_text())["url"])
    except (OSError, ValueError, KeyError):
        raise NoStripe("STRIPE_SECRET_KEY is not set, and no stand-in for Stripe is running here") from None


def reconcile(database_url: str, at: StripeAccount) -> Reconciliation:
    """Reads both sides whole. Raises NoStripe if Stripe cannot be read, psycopg.Error if the ledger cannot."""
    with psycopg.connect(DatabaseUrl.parse(database_url).for_psycopg()) as conn:
        began = conn.execute(SQL["began"]).fetchone()
    assert began is not None
    try:
        at_stripe, charged_at, without_disputes = _at_stripe(at)
    except stripe.StripeError as error:
        raise NoStripe(f"Stripe: {str(error).strip().splitlines()[0]}") from error
    in_ledger: dict[str, Sums] = {}
    with snapshot(database_url) as conn:  # what is booked between two of them would be in neither
        in_flight = {payment for (payment,) in conn.execute(SQL["in_flight"])}
        for payment, charged, back, lately in conn.execute(SQL["clearing"], {"began": began[0]}):
            in_ledger[payment or "without a payment"] = Sums(charged or 0, back or 0)
            if lately and payment is not None:  # Stripe may have been read before that
                in_flight.add(payment)
        row = conn.execute(SQL["kept_since"]).fetchone()
    assert row is not None
    since: datetime | None = row[0]
    nothing = Sums()
    if since is not None:
        kept = since.timestamp()
        for payment in [payment for payment, charged in charged_at.items() if charged < kept]:
            if not in_ledger.get(payment, nothing).charged:
                at_stripe.pop(payment)
                in_ledger.pop(payment, None)
    payments = sorted(at_stripe.keys() | in_ledger.keys())
    return Reconciliation(
        payments=len(payments),
        at_stripe_cents=sum(sums.charged - sums.back for sums in at_stripe.values()),
        in_ledger_cents=sum(sums.charged - sums.back for sums in in_ledger.values()),
        in_flight=len(in_flight & at_stripe.keys()),
        differences=tuple(
            Difference(payment, at_stripe.get(payment, nothing), in_ledger.get(payment, nothing))
            for payment in payments
            if payment not in in_flight and at_stripe.get(payment, nothing) != in_ledger.get(payment, nothing)
        ),
        without_disputes=without_disputes,
        since=since,
    )


def _at_stripe(at: StripeAccount) -> tuple[dict[str, Sums], dict[str, int], bool]:
    """Each payment's sums and the Unix time of its first charge."""
    client = stripe.StripeClient(
        at.secret_key, stripe_version=API_VERSION, base_addresses={"api": at.api_base}, max_network_retries=3
    )
    found: defaultdict[str, Sums] = defaultdict(Sums)
    payment_of: dict[str, str] = {}
    charged_at: dict[str, int] = {}
    for charge in _all(client.v1.charges):
        if charge["status"] == "succeeded" and charge["captured"]:
            payment = payment_of[charge["id"]] = _id(charge.get("payment_intent")) or charge["id"]
            found[payment].charged += charge.get("amount_captured", charge["amount"])
            charged_at[payment] = min(charged_at.get(payment, charge["created"]), charge["created"])
    for refund in _all(client.v1.refunds):
        if refund.get("status") not in {"failed", "canceled"} and (charge_id := _id(refund["charge"])) in payment_of:
            found[payment_of[charge_id]].back += refund["amount"]
    without_disputes = False
    try:
        for dispute in _all(client.v1.disputes):
            held = dispute["status"] in {"needs_response", "under_review", "lost"}
            if held and (charge_id := _id(dispute["charge"])) in payment_of:
                found[payment_of[charge_id]].back += dispute["amount"]
    except stripe.APIError:
        without_disputes = True
    for sums in found.values():
        sums.back = min(sums.back, sums.charged)
    return dict(found), charged_at, without_disputes


def _all(resource: Any) -> Iterator[dict[str, Any]]:
    params: dict[str, Any] = {"limit": PAGE}
    while True:
        page = resource.list(params).to_dict()
        yield from page["data"]
        if not page["has_more"] or not page["data"]:
            return
        params["starting_after"] = page["data"][-1]["id"]


def _id(value: Any) -> str | None:
    """Objects come as their id, or whole."""
    found = value.get("id") if isinstance(value, dict) else value
    return str(found) if found else None


def _usd(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02}"
