"""Stripe's events: whoever signed them, in any order, once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from tests.payments.conftest import Buyer, LaunchPaying, Ledger, event, send
from tests.payments.stripe import AUTHENTICATED_CARD, SECRET, Stripe, signed
from tests.servers import Server, eventually


async def bought(buyer: Buyer, stripe: Stripe, cents: int = 1000) -> tuple[str, str]:
    """A purchase's id and its payment's."""
    answer = await buyer.buy(await stripe.card(), cents)
    assert answer.status == 200
    [payment] = [
        intent["id"]
        for intent in await stripe.all("payment_intents")
        if intent["metadata"]["purchaseId"] == answer.body["purchaseId"]
    ]
    return answer.body["purchaseId"], payment


def refunded(payment: str, cents: int, total: int = 1000) -> bytes:
    charge = {"id": "ch_1", "object": "charge", "amount": total, "amount_refunded": cents, "payment_intent": payment}
    return event("charge.refunded", charge)


def disputed(kind: str, payment: str, status: str, cents: int = 1000, dispute: str = "dp_1") -> bytes:
    about = {"id": dispute, "object": "dispute", "amount": cents, "payment_intent": payment, "status": status}
    return event(f"charge.dispute.{kind}", about)


async def spend(ledger: Ledger, user: str, tokens: int) -> None:
    """As a call does."""
    await ledger.conn.fetch(
        "SELECT * FROM ledger_post(ARRAY[$1], ARRAY['call_debit'::transaction_type], ARRAY['{}'::jsonb], ARRAY[1, 1],"
        " ARRAY[ledger_platform_account('platform_revenue'),"
        " (SELECT id FROM accounts WHERE owner_id = $2 AND kind = 'wallet')],"
        " ARRAY[-$3::bigint, $3::bigint], 'test')",
        f"spend:{time.time_ns()}",
        user,
        tokens,
    )


# -- signatures --------------------------------------------------------------------------------------------------------


async def test_an_event_whose_signature_does_not_hold_is_refused(
    server: Server, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    body = refunded("pi_1", 1000)
    for wrong, headers in {
        "none": {"Content-Type": "application/json"},
        "empty": {"Stripe-Signature": ""},
        "nonsense": {"Stripe-Signature": "nonsense"},
        "unsigned": {"Stripe-Signature": "t=1,v1="},
        "beyond ASCII": {"Stripe-Signature": f"t={int(time.time())},v1=\u00ff"},
        "other secret": signed(body, "whsec_of_somebody_else"),
        "other body": signed(b"another body"),
        "too old": signed(body, at=int(time.time()) - 310),
        "empty secret": signed(body, ""),
    }.items():
        answer = await send(server, http, body, **headers)
        assert (answer.status, answer.body["code"]) == (400, "signature_invalid"), wrong
    assert await ledger.conn.fetchval("SELECT count(*) FROM stripe_events") == 0
    assert (await send(server, http, body)).status == 200


async def test_two_secrets_hold_while_one_is_rotated(launch_paying: LaunchPaying, http: aiohttp.ClientSession) -> None:
    server = launch_paying(STRIPE_WEBHOOK_SECRET="whsec_new, whsec_old").server
    body = event("balance.available", {"object": "balance"})
    for secret in ("whsec_new", "whsec_old"):
        assert (await send(server, http, body, secret)).status == 200
    assert (await send(server, http, body, SECRET)).status == 400


async def test_a_signed_body_that_is_no_event_is_refused(server: Server, http: aiohttp.ClientSession) -> None:
    no_data = b'{"id": "e", "type": "t", "data": null}'
    for body in (b"", b"[]", b"{}", b'{"id": 1}', b"\xff", no_data, b"[" * 100_000):
        assert (await send(server, http, body, **signed(body))).status == 400, body[:40]


async def test_events_of_what_is_not_ours_are_taken_and_change_nothing(
    buyer: Buyer, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    for body in (
        refunded("pi_unknown", 1000),
        disputed("created", "pi_unknown", "needs_response"),
        event("payment_intent.succeeded", {"id": "pi_x", "object": "payment_intent", "amount": 5}),
        event("invoice.paid", {"object": "invoice"}),
        event("charge.dispute.created", {"object": "dispute", "id": "dp", "charge": "ch_unknown"}),
    ):
        answer = await send(buyer.server, http, body)
        assert (answer.status, answer.body["outcome"]) == (200, "unknown")
    assert await ledger.conn.fetchval("SELECT count(*) FROM journals") == 0


# -- successes ---------------------------------------------------------------------------------------------------------


async def test_a_success_that_comes_with_our_own_answer_and_again_credits_once(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    _, payment = await bought(buyer, stripe)
    about = {"id": payment, "object": "payment_intent", "amount": 1000, "amount_received": 1000}
    bodies = [event("payment_intent.succeeded", about, "evt_1")] * 5 + [event("payment_intent.succeeded", about)] * 5
    answers = await asyncio.gather(*(send(buyer.server, http, body) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    assert await buyer.balance() == 1000
    assert await ledger.journals("purchase") == 1


async def test_a_late_failure_does_not_undo_a_success(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession
) -> None:
    purchase_id, payment = await bought(buyer, stripe)
    await send(buyer.server, http, event("payment_intent.payment_failed", {"id": payment, "object": "payment_intent"}))
    assert (await buyer.purchase(purchase_id))["status"] == "succeeded"
    assert await buyer.balance() == 1000


async def test_a_success_after_a_failure_is_credited_and_counted(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    payment = asked["clientSecret"].split("_secret_")[0]
    await stripe.authenticate(asked["clientSecret"], success=False)
    await send(buyer.server, http, event("payment_intent.payment_failed", {"id": payment, "object": "payment_intent"}))
    assert (await buyer.purchase(asked["purchaseId"]))["declineCode"] == "payment_intent_authentication_failure"
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0
    about = {"id": payment, "object": "payment_intent", "amount": 500, "amount_received": 500}
    await send(buyer.server, http, event("payment_intent.succeeded", about))
    assert (await buyer.purchase(asked["purchaseId"]))["status"] == "succeeded"
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 500
    assert await buyer.balance() == 500
    ledger.prove()


async def test_a_success_of_another_amount_is_not_credited(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    about = {"id": asked["clientSecret"].split("_secret_")[0], "object": "payment_intent", "amount_received": 1}
    answer = await send(buyer.server, http, event("payment_intent.succeeded", about))
    assert (answer.status, answer.body["outcome"]) == (200, "wrong_amount")
    assert await buyer.balance() == 0


# -- refunds and disputes ----------------------------------------------------------------------------------------------


async def test_refunds_are_cumulative_and_booked_by_what_they_grew(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger, open_tab: Any
) -> None:
    tab = await open_tab(buyer.server, buyer.user)
    _, payment = await bought(buyer, stripe)
    for cents in (300, 300, 700, 300, 1000, 700):  # parts, repetitions, and late ones
        assert (await send(buyer.server, http, refunded(payment, cents))).status == 200
    assert await buyer.balance() == 0
    assert await ledger.journals("refund") == 3
    assert await ledger.balance("stripe_clearing") == await ledger.balance("tokens_issued") == 0
    told = await eventually(lambda: (u := [p["delta"] for p in tab.told("balance:update")][2:]) and len(u) == 3 and u)
    assert told == [-300, -400, -300]
    ledger.prove()


async def test_what_was_spent_is_owed_and_the_wallet_never_goes_below_zero(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    _, payment = await bought(buyer, stripe)
    await spend(ledger, "ann", 800)
    await send(buyer.server, http, refunded(payment, 1000))
    assert await buyer.balance() == 0
    assert await ledger.balance("receivable", "ann") == 800
    assert (await buyer.buy(await stripe.card(), 600)).body["balance"] == 600
    assert await ledger.balance("receivable", "ann") == 800
    ledger.prove()


@pytest.mark.parametrize("order", [("created", "closed"), ("closed", "created")])
@pytest.mark.parametrize(("end", "balance"), [("won", 1000), ("lost", 0)])
async def test_a_dispute_takes_the_tokens_until_it_is_won(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger, order: tuple[str, str], end: str,
    balance: int,
) -> None:  # fmt: skip
    _, payment = await bought(buyer, stripe)
    for kind in order:
        status = end if kind == "closed" else "needs_response"
        assert (await send(buyer.server, http, disputed(kind, payment, status))).body["outcome"] == "applied"
        assert (await send(buyer.server, http, disputed(kind, payment, status))).status == 200
    assert await buyer.balance() == balance
    assert await ledger.balance("stripe_clearing") == balance
    ledger.prove()


async def test_a_dispute_that_is_won_pays_off_what_was_owed_first(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    _, payment = await bought(buyer, stripe)
    await spend(ledger, "ann", 600)
    await send(buyer.server, http, disputed("created", payment, "needs_response"))
    assert (await buyer.balance(), await ledger.balance("receivable", "ann")) == (0, 600)
    await send(buyer.server, http, disputed("closed", payment, "won"))
    assert (await buyer.balance(), await ledger.balance("receivable", "ann")) == (400, 0)
    assert await ledger.journals("dispute_reversal") == 1
    ledger.prove()


async def test_a_refund_and_a_dispute_of_the_same_money_take_it_once(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    _, payment = await bought(buyer, stripe)
    await bought(buyer, stripe)
    await send(buyer.server, http, refunded(payment, 600))
    await send(buyer.server, http, disputed("created", payment, "needs_response"))
    assert await buyer.balance() == 1000
    await send(buyer.server, http, disputed("closed", payment, "won"))
    assert await buyer.balance() == 1400
    ledger.prove()


async def test_an_inquiry_takes_nothing(buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession) -> None:
    _, payment = await bought(buyer, stripe)
    await send(buyer.server, http, disputed("created", payment, "warning_needs_response"))
    for kind in ("updated", "closed"):
        await send(buyer.server, http, disputed(kind, payment, "warning_closed"))
        assert await buyer.balance() == 1000


async def test_a_refund_that_overtakes_the_success_is_booked_with_it(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD), 1000)).body
    payment = asked["clientSecret"].split("_secret_")[0]
    await send(buyer.server, http, refunded(payment, 400))
    assert await buyer.balance() == 0
    about = {"id": payment, "object": "payment_intent", "amount": 1000}
    await send(buyer.server, http, event("payment_intent.succeeded", about))
    assert await buyer.balance() == 600
    ledger.prove()


async def test_refunds_and_calls_at_once_never_take_more_than_there_is(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    payments = [(await bought(buyer, stripe))[1] for _ in range(4)]

    async def call() -> None:
        for _ in range(40):
            await spend(ledger, "ann", 50)

    await asyncio.gather(call(), *(send(buyer.server, http, refunded(payment, 1000)) for payment in payments))
    spent = await ledger.balance("platform_revenue")
    assert await buyer.balance() == 0 or spent < 4000
    assert await buyer.balance() - await ledger.balance("receivable", "ann") == -spent
    ledger.prove()


async def test_a_dispute_that_overtakes_the_success_is_booked_with_it_as_one(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD), 1000)).body
    payment = asked["clientSecret"].split("_secret_")[0]
    await send(buyer.server, http, disputed("created", payment, "needs_response"))
    about = {"id": payment, "object": "payment_intent", "amount": 1000}
    await send(buyer.server, http, event("payment_intent.succeeded", about))
    assert await buyer.balance() == 0
    assert (await ledger.journals("dispute"), await ledger.journals("refund")) == (1, 0)
    ledger.prove()


async def test_two_disputes_of_parts_are_each_their_own(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    _, payment = await bought(buyer, stripe)
    await send(buyer.server, http, disputed("created", payment, "needs_response", 300, "dp_1"))
    await send(buyer.server, http, disputed("created", payment, "needs_response", 200, "dp_2"))
    assert await buyer.balance() == 500
    await send(buyer.server, http, disputed("closed", payment, "won", 300, "dp_1"))
    await send(buyer.server, http, disputed("closed", payment, "lost", 200, "dp_2"))
    assert await buyer.balance() == 800
    ledger.prove()


async def test_a_charge_that_does_not_name_its_payment_is_asked_for_it(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession
) -> None:
    await bought(buyer, stripe)
    [charge] = await stripe.charges()
    about = {"id": charge["id"], "object": "charge", "amount": 1000, "amount_refunded": 400}
    assert (await send(buyer.server, http, event("charge.refunded", about))).body["outcome"] == "applied"
    assert await buyer.balance() == 600
    about = {"id": "dp_1", "object": "dispute", "amount": 100, "charge": charge["id"], "status": "needs_response"}
    assert (await send(buyer.server, http, event("charge.dispute.created", about))).body["outcome"] == "applied"
    assert await buyer.balance() == 500


async def test_a_charge_of_a_payment_nobody_confirmed_is_not_credited_and_said_loudly(
    buyer: Buyer, stripe: Stripe, http: aiohttp.ClientSession
) -> None:
    purchase_id, _ = await bought(buyer, stripe)
    about = {"id": "pi_second", "object": "payment_intent", "amount": 1000, "metadata": {"purchaseId": purchase_id}}
    answer = await send(buyer.server, http, event("payment_intent.succeeded", about))
    assert (answer.status, answer.body["outcome"]) == (200, "not_ours")
    assert "a payment nobody confirmed was charged" in buyer.server.log.read_text()
    assert await buyer.balance() == 1000


@pytest.mark.parametrize("order", ["by the provider", "by an admin"])
async def test_a_refund_in_mid_call_ends_the_call_where_it_is_paid_to_and_what_was_spent_is_owed(
    launch_paying: LaunchPaying, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger, open_tab: Any, order: str
) -> None:
    buyer = launch_paying(BILLING_PERIOD_SECONDS=1, DEFAULT_RATE_TOKENS_PER_PERIOD=100, CALL_GRACE_SECONDS=60)
    purchase_id, payment = await bought(buyer, stripe, 2000)
    ann, bob = await open_tab(buyer.server, "ann"), await open_tab(buyer.server, "bob")
    await eventually(lambda: ann.told("balance:update") and bob.told("balance:update"))
    started = await ann.ask("call:start", {"calleeId": "bob", "requestId": "r"})
    assert (await bob.ask("call:accept", {"callId": started["call"]["id"]}))["ok"]
    await eventually(lambda: len([u for u in ann.told("balance:update") if u["reason"] == "call_debit"]) >= 2)
    if order == "by an admin":
        admin = Buyer(http, buyer.server, "root", role="admin")
        answer = await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase_id}, Idempotency_Key="r")
        assert answer.status == 200
    else:
        await send(buyer.server, http, refunded(payment, 2000, 2000))
    [ended] = await eventually(lambda: ann.told("call:ended"))
    assert ended["call"]["endReason"] == "insufficient_funds"
    spent = ended["call"]["tokensSpent"]
    assert spent == 100 * ended["call"]["periodsBilled"] >= 200
    assert await buyer.balance() == 0
    assert await ledger.balance("receivable", "ann") == spent
    assert await ledger.balance("earnings", "bob") + await ledger.balance("platform_revenue") == spent
    ledger.prove()


# -- an admin's orders -------------------------------------------------------------------------------------------------


async def test_an_admins_refund_pays_back_once(
    buyer: Buyer, admin: Buyer, stripe: Stripe, http: aiohttp.ClientSession, ledger: Ledger
) -> None:
    purchase_id, payment = await bought(buyer, stripe)
    order = {"purchaseId": purchase_id}
    first = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key="r")
    assert first.status == 200, first.body
    assert first.body == {
        "purchaseId": purchase_id,
        "status": "refunded",
        "refundedCents": 1000,
        "tokensTakenBack": 1000,
        "tokensOwed": 0,
    }
    again = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key="r")
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, first.body, "true")
    other = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key="other")
    assert (other.status, other.body["code"]) == (409, "purchase_not_refundable")
    await send(buyer.server, http, refunded(payment, 1000))
    assert [refund["amount"] for refund in await stripe.all("refunds")] == [1000]
    assert await buyer.balance() == 0
    assert await ledger.journals("refund") == 1
    ledger.prove()


async def test_two_admins_at_once_pay_back_once(buyer: Buyer, admin: Buyer, stripe: Stripe) -> None:
    purchase_id, _ = await bought(buyer, stripe)
    answers = await asyncio.gather(
        *(
            admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase_id}, Idempotency_Key=f"r{n}")
            for n in range(5)
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    assert len(await stripe.all("refunds")) == 1


async def test_the_rest_of_a_partly_refunded_purchase_is_paid_back(buyer: Buyer, admin: Buyer, stripe: Stripe) -> None:
    purchase_id, payment = await bought(buyer, stripe)
    await stripe.ask("POST", "/v1/refunds", payment_intent=payment, amount=300)
    answer = await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase_id}, Idempotency_Key="r")
    assert answer.body["refundedCents"] == 1000
    assert sorted(refund["amount"] for refund in await stripe.all("refunds")) == [300, 700]


async def test_only_what_succeeded_can_be_paid_back(buyer: Buyer, admin: Buyer, stripe: Stripe) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    answer = await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": asked["purchaseId"]}, Idempotency_Key="r")
    assert (answer.status, answer.body["code"]) == (409, "purchase_not_refundable")
    unknown = {"purchaseId": "01234567-89ab-7def-8123-456789abcdef"}
    missing = await admin.ask("POST", "/api/v1/admin/refunds", unknown, Idempotency_Key="u")
    assert (missing.status, missing.body["code"]) == (404, "not_found")


async def test_a_grant_is_given_once_and_pushed(buyer: Buyer, admin: Buyer, ledger: Ledger, open_tab: Any) -> None:
    tab = await open_tab(buyer.server, buyer.user)
    wanted = {"userId": "ann", "tokens": 250, "reason": "welcome"}
    grants = [admin.ask("POST", "/api/v1/admin/grants", wanted, Idempotency_Key="g") for _ in range(5)]
    answers = await asyncio.gather(*grants)
    assert {answer.status for answer in answers} <= {200, 409}
    replayed = await admin.ask("POST", "/api/v1/admin/grants", wanted, Idempotency_Key="g")
    assert replayed.body == {"userId": "ann", "tokens": 250, "balance": 250, "version": 1}
    [update] = await eventually(lambda: [u for u in tab.told("balance:update") if u["reason"] == "grant"])
    assert update["delta"] == 250
    assert await ledger.journals("grant") == 1
    other = await admin.ask("POST", "/api/v1/admin/grants", wanted | {"tokens": 251}, Idempotency_Key="g")
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    ledger.prove()


@pytest.mark.parametrize("path", ["/api/v1/admin/grants", "/api/v1/admin/refunds"])
async def test_orders_of_an_admin_need_the_role(buyer: Buyer, path: str) -> None:
    assert (await buyer.ask("POST", path, {}, Idempotency_Key="k")).status == 403
