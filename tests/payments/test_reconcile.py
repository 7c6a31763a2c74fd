"""`python -m ledger reconcile stripe` finds every payment on which the two sides disagree."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import aiohttp
import pytest

from ledger import reconcile
from tests.payments.conftest import Buyer, Ledger, send
from tests.payments.stripe import AUTHENTICATED_CARD, Stripe, event
from tests.payments.unreliable import between
from tests.servers import ROOT


async def run(ledger: Ledger, stripe: Stripe, api_base: str | None = None) -> tuple[int, str]:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ledger", "reconcile", "stripe"],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": ledger.url, "PYTHONPATH": str(ROOT)}
        | stripe.settings
        | {"STRIPE_API_BASE": api_base or stripe.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


async def test_both_sides_agree_after_purchases_and_refunds(
    buyer: Buyer, admin: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    purchases = [(await buyer.buy(await stripe.card(), cents)).body["purchaseId"] for cents in (500, 700)]
    await buyer.buy(await stripe.card(AUTHENTICATED_CARD))
    await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchases[0]}, Idempotency_Key="r")
    assert await run(ledger, stripe) == (
        0,
        "ok: 2 payments, 0 in flight; Stripe holds 700 cents, the ledger 700\n",
    )


async def test_a_charge_and_a_refund_we_do_not_know_are_named(buyer: Buyer, stripe: Stripe, ledger: Ledger) -> None:
    await buyer.buy(await stripe.card(), 500)
    [ours] = await stripe.all("payment_intents")
    await stripe.ask("POST", "/v1/refunds", payment_intent=ours["id"], amount=200)
    other = await stripe.ask(
        "POST", "/v1/payment_intents", amount=900, currency="usd", payment_method=await stripe.card(), confirm=True
    )
    status, said = await run(ledger, stripe)
    assert status == 1
    assert f"{ours['id']}: Stripe charged $5.00 and gave back $2.00, the ledger has $5.00 and $0.00" in said
    assert f"{other['id']}: Stripe charged $9.00 and gave back $0.00, the ledger has $0.00 and $0.00" in said
    assert "2 differences in 2 payments" in said


async def test_a_credit_without_a_charge_is_named(buyer: Buyer, stripe: Stripe, ledger: Ledger) -> None:
    await buyer.buy(await stripe.card(), 500)
    await stripe.ask("DELETE", "/_config/data")
    status, said = await run(ledger, stripe)
    assert status == 1
    assert "Stripe charged $0.00 and gave back $0.00, the ledger has $5.00 and $0.00" in said


async def test_what_is_sold_after_stripe_was_read_is_in_flight_and_no_difference(
    buyer: Buyer, stripe: Stripe, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await buyer.buy(await stripe.card(), 500)
    card, loop, read = await stripe.card(), asyncio.get_running_loop(), reconcile._at_stripe

    def and_then_sell(at: reconcile.StripeAccount) -> Any:
        found = read(at)
        asyncio.run_coroutine_threadsafe(buyer.buy(card, 700), loop).result(timeout=30)
        return found

    monkeypatch.setattr(reconcile, "_at_stripe", and_then_sell)
    at = reconcile.account({**stripe.settings, "STRIPE_API_BASE": stripe.url})
    found = await asyncio.to_thread(reconcile.reconcile, ledger.url, at)
    assert (found.differences, found.at_stripe_cents, found.in_ledger_cents) == ((), 500, 1200)


async def test_payments_of_detached_months_are_not_compared(buyer: Buyer, stripe: Stripe, ledger: Ledger) -> None:
    await buyer.buy(await stripe.card(), 500)
    [gone] = await stripe.all("payment_intents")
    # As detaching leaves it; what was charged before and booked in a month that is kept is compared all the same.
    await ledger.conn.execute(
        "SET session_replication_role = replica; DELETE FROM entries; DELETE FROM journals;"
        "RESET session_replication_role;"
        "INSERT INTO detached_partitions VALUES ('entries_gone', 0, ledger_id_at(now() + interval '1 hour'))"
    )
    since = await ledger.conn.fetchval("SELECT to_char((now() + interval '1 hour') AT TIME ZONE 'UTC', 'YYYY-MM-DD')")
    await buyer.buy(await stripe.card(), 700)
    status, said = await run(ledger, stripe)
    assert said == f"ok: 1 payments since {since}, 0 in flight; Stripe holds 700 cents, the ledger 700\n"
    assert (status, gone["id"] in said) == (0, False)


async def test_what_disputes_hold_is_compared_too(
    buyer: Buyer, stripe: Stripe, ledger: Ledger, http: aiohttp.ClientSession
) -> None:
    await buyer.buy(await stripe.card(), 500)
    [charge] = await stripe.charges()

    def dispute(status: str, cents: int) -> dict[str, Any]:
        return {"id": "dp_1", "object": "dispute", "charge": charge["id"], "amount": cents, "status": status}

    async with between(stripe.url, http) as proxy:
        disputes = {"object": "list", "has_more": False, "url": "/v1/disputes"}
        proxy.answers["/v1/disputes"] = disputes | {"data": [dispute("needs_response", 300), dispute("won", 500)]}
        status, said = await run(ledger, stripe, proxy.url)
        assert (status, "gave back $3.00, the ledger has $5.00 and $0.00" in said) == (1, True)
        await send(buyer.server, http, event("charge.dispute.created", dispute("needs_response", 300)))
        assert await run(ledger, stripe, proxy.url) == (
            0,
            "ok: 1 payments, 0 in flight; Stripe holds 200 cents, the ledger 200\n",
        )
