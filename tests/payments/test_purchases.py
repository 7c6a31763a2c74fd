"""Buying tokens against a real server, PostgreSQL, Redis and localstripe."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import redis

from realtime import embedded
from realtime.adapters import idempotency_store
from tests.payments.conftest import NEW, OLD, Buyer, LaunchPaying, Ledger, send
from tests.payments.stripe import AUTHENTICATED_CARD, DECLINED_CARD, DECLINED_IBAN, Stripe, event
from tests.servers import Server, eventually


async def test_a_purchase_charges_the_card_and_credits_the_wallet(buyer: Buyer, stripe: Stripe, ledger: Ledger) -> None:
    answer = await buyer.buy(await stripe.card(), 500)
    assert answer.status == 200, answer.body
    assert answer.body.items() >= {"status": "succeeded", "tokens": 500, "balance": 500, "version": 1}.items()
    [charge] = await stripe.charges()
    assert charge["amount"] == 500
    assert await ledger.balance("stripe_clearing") == await ledger.balance("token_sales") == 500
    assert await ledger.balance("tokens_issued") == await ledger.balance("wallet", "ann") == 500
    assert (await buyer.purchase(answer.body["purchaseId"]))["status"] == "succeeded"
    ledger.prove()


async def test_the_balance_is_pushed_after_a_purchase(buyer: Buyer, stripe: Stripe, open_tab) -> None:
    tab = await open_tab(buyer.server, buyer.user)
    answer = await buyer.buy(await stripe.card(), 700)
    [update] = await eventually(lambda: [u for u in tab.told("balance:update") if u["reason"] == "purchase"])
    assert update["balance"] == update["delta"] == 700
    assert update["purchaseId"] == answer.body["purchaseId"]


async def test_the_same_key_twice_gives_the_same_answer_and_one_charge(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card()
    first = await buyer.buy(card, key="k")
    second = await buyer.buy(card, key="k")
    assert (second.status, second.body) == (first.status, first.body)
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(await stripe.charges()) == 1
    assert await buyer.balance() == 500


async def test_a_replay_takes_nothing_of_the_allowance(launch_paying: LaunchPaying, stripe: Stripe) -> None:
    buyer = launch_paying(MONEY_OPS_PER_MINUTE=2)
    card = await stripe.card()
    first = await buyer.buy(card, key="k")
    assert first.headers["RateLimit-Policy"] == '"money";q=2;w=60'
    assert first.headers["RateLimit"].startswith('"money";r=1;')
    for _ in range(5):
        assert (await buyer.buy(card, key="k")).status == 200
    assert (await buyer.buy(card)).headers["RateLimit"].startswith('"money";r=0;')


async def test_twenty_requests_at_once_with_one_key_charge_once_whichever_instance_they_reach(
    buyer: Buyer, launch_paying: LaunchPaying, stripe: Stripe
) -> None:
    card = await stripe.card()
    elsewhere = launch_paying()
    answers = await asyncio.gather(*(one.buy(card, key="k") for one in [buyer, elsewhere] * 10))
    assert {answer.status for answer in answers} <= {200, 409}
    assert {a.body["code"] for a in answers if a.status == 409} <= {"idempotency_in_progress"}
    assert len(await stripe.charges()) == 1
    assert await buyer.balance() == 500


async def test_a_key_whose_time_is_over_is_like_a_new_one(buyer: Buyer, stripe: Stripe, ledger: Ledger) -> None:
    card = await stripe.card()
    await buyer.buy(card, key="k")
    await ledger.conn.execute("UPDATE idempotency_keys SET expires_at = now()")
    again = await buyer.buy(card, 600, key="k")
    assert (again.status, again.body["balance"]) == (200, 1100)
    assert len(await stripe.charges()) == 2


async def test_an_answer_that_took_longer_than_its_keys_time_is_there_for_a_minute(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    """As after an outage: the key's time was over before a job found out how the purchase ended."""
    asked = await buyer.buy(await stripe.card(AUTHENTICATED_CARD), key="k")
    await ledger.conn.execute("UPDATE idempotency_keys SET outcome = NULL, expires_at = now() - interval '1 second'")
    subject = await ledger.conn.fetchval("SELECT subject FROM idempotency_keys")
    await idempotency_store.finish_subject(ledger.conn, buyer.user, "k", subject, cast("Any", "{}"))
    assert asked.status == 202
    assert await ledger.conn.fetchval("SELECT expires_at > now() + interval '50 seconds' FROM idempotency_keys")


async def test_keys_are_per_user(buyer: Buyer, stripe: Stripe) -> None:
    bob = Buyer(buyer.http, buyer.server, "bob")
    card = await stripe.card()
    assert (await buyer.buy(card, key="k")).status == 200
    assert (await bob.buy(card, 700, key="k")).body["balance"] == 700
    assert len(await stripe.charges()) == 2


async def test_a_key_with_another_body_is_refused(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card()
    await buyer.buy(card, 500, key="k")
    answer = await buyer.buy(card, 600, key="k")
    assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused")


async def test_a_malformed_request_is_refused_and_leaves_its_key_free(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card()
    without = await buyer.ask("POST", NEW, {"amountInCents": 500, "paymentMethodId": card})
    assert (without.status, without.body["code"]) == (400, "idempotency_key_missing")
    for cents in (49, 1_000_001, -500, 0, 500.5, "500", True, None):
        answer = await buyer.buy(card, cents, key="k")  # type: ignore[arg-type]
        assert (answer.status, answer.body["code"]) == (400, "invalid_payload"), cents
    for key in ("k" * 256, "schlüssel", "a\tb"):
        answer = await buyer.buy(card, key=key)
        assert (answer.status, answer.body["code"]) == (400, "invalid_payload"), key
    assert (await buyer.buy(card, key="k")).status == 200
    assert (await buyer.buy(card, 600, key="k" * 255)).body["balance"] == 1100


async def test_a_missing_key_is_said_whatever_the_body(admin: Buyer) -> None:
    for path in (NEW, "/api/v1/admin/grants", "/api/v1/admin/refunds"):
        for key in ({}, {"Idempotency_Key": " "}):
            answer = await admin.ask("POST", path, {"nothing": "of it"}, **key)
            assert (answer.status, answer.body["code"]) == (400, "idempotency_key_missing"), path


async def test_the_eleventh_purchase_in_a_minute_fails(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card()
    statuses = [(await buyer.buy(card, 100, route=route)).status for route in [NEW, OLD] * 5]
    assert statuses == [200] * 10
    eleventh = await buyer.buy(card, 100, key="eleventh")
    assert (eleventh.status, eleventh.body["code"]) == (429, "rate_limited")
    assert 1 <= eleventh.body["retryAfter"] <= 60
    assert eleventh.headers["Retry-After"] == str(eleventh.body["retryAfter"])
    assert eleventh.headers["RateLimit"].startswith('"money";r=0;')
    assert len(await stripe.charges()) == 10


async def test_of_eleven_purchases_at_once_ten_are_made(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card()
    answers = await asyncio.gather(*(buyer.buy(card, 100) for _ in range(11)))
    assert Counter(answer.status for answer in answers) == {200: 10, 429: 1}


async def test_a_redis_that_forgets_everything_costs_no_money(
    launch_paying: LaunchPaying, stripe: Stripe, redis_url: str
) -> None:
    buyer = launch_paying(MONEY_OPS_PER_MINUTE=1, DAILY_SPEND_LIMIT_CENTS=1000)
    card = await stripe.card()
    first = await buyer.buy(card, key="k")
    limited = await buyer.buy(card, key="other")
    assert limited.status == 429

    def forget() -> None:
        with redis.from_url(redis_url) as client:
            client.flushall()

    forget()
    again = await buyer.buy(card, key="k")
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, first.body, "true")
    assert (await buyer.buy(card, key="other")).status == 200  # what was refused has left its key free
    forget()
    beyond = await buyer.buy(card)
    assert (beyond.status, beyond.body["spentCents"]) == (403, 1000)
    assert len(await stripe.charges()) == 2


async def test_the_daily_limit_holds_exactly_under_fifty_purchases_at_once_on_two_instances(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    buyers = [launch_paying(MONEY_OPS_PER_MINUTE=100) for _ in range(2)]
    buyer = buyers[0]
    card = await stripe.card()
    answers = await asyncio.gather(*(one.buy(card, 700) for one in buyers * 25))
    assert Counter(answer.status for answer in answers) == {200: 14, 403: 36}  # 14 × $7 = $98
    refused = next(answer for answer in answers if answer.status == 403)
    assert refused.body["code"] == "daily_limit_exceeded"
    last = (await buyer.buy(card, 201)).body
    assert (last["limitCents"], last["spentCents"]) == (10_000, 9_800)
    assert last["resetsAt"].endswith("T00:00:00.000Z")
    assert (await buyer.buy(card, 200)).status == 200
    assert sum(charge["amount"] for charge in await stripe.charges()) == 10_000
    assert await buyer.balance() == 10_000
    ledger.prove()


async def test_what_is_plainly_beyond_the_daily_limit_is_refused_while_another_purchase_holds_the_allowance(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    buyer = launch_paying(DAILY_SPEND_LIMIT_CENTS=1_000)
    card = await stripe.card()
    assert (await buyer.buy(card, 700)).status == 200
    async with ledger.conn.transaction():
        await ledger.conn.execute("SELECT FROM daily_spend FOR UPDATE")
        beyond = await buyer.buy(card, 700)
    assert (beyond.status, beyond.body["code"], beyond.body["spentCents"]) == (403, "daily_limit_exceeded", 700)
    assert (await buyer.buy(card, 300)).status == 200


async def test_a_declined_card_is_said_with_its_code_and_gives_the_allowance_back(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    buyer = launch_paying(DAILY_SPEND_LIMIT_CENTS=600)
    declined = await buyer.buy(await stripe.card(DECLINED_CARD), 500, key="k")
    assert (declined.status, declined.body["code"]) == (402, "payment_declined")
    assert declined.body["declineCode"] == "card_declined"
    again = await buyer.buy(await stripe.card(DECLINED_CARD), 500, key="other")
    assert again.status == 402
    assert (await buyer.buy(await stripe.card(), 600)).status == 200
    assert (await buyer.purchase(declined.body["purchaseId"]))["status"] == "failed"
    assert await ledger.audited("purchase_failed") == 2

    async def cancelled() -> bool:
        intents = await stripe.all("payment_intents")
        return Counter(i["status"] for i in intents) == {"canceled": 2, "succeeded": 1}

    await eventually(cancelled)


async def test_a_decline_is_replayed_with_its_key(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card(DECLINED_CARD)
    first, second = await buyer.buy(card, key="k"), await buyer.buy(card, key="k")
    assert (second.status, second.body) == (first.status, first.body) == (402, first.body)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(await stripe.all("charges")) == 1


async def test_an_unknown_payment_method_is_refused_and_nothing_stays_held(buyer: Buyer, ledger: Ledger) -> None:
    answer = await buyer.buy("pm_unknown")
    assert (answer.status, answer.body["code"]) == (400, "payment_method_invalid")
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0


async def test_a_card_that_wants_authentication_is_finished_by_the_event(
    buyer: Buyer, stripe: Stripe, ledger: Ledger, open_tab
) -> None:
    await stripe.send_events_to(f"{buyer.server.url}/api/v1/webhooks/stripe")
    tab = await open_tab(buyer.server, buyer.user)
    card = await stripe.card(AUTHENTICATED_CARD)
    asked = await buyer.buy(card, key="k")
    assert (asked.status, asked.body["status"]) == (202, "requires_action")
    assert await buyer.balance() == 0
    await stripe.authenticate(asked.body["clientSecret"])
    await eventually(lambda: [u for u in tab.told("balance:update") if u["balance"] == 500])
    assert (await buyer.purchase(asked.body["purchaseId"]))["status"] == "succeeded"
    again = await buyer.buy(card, key="k")
    assert (again.status, again.body) == (202, asked.body)
    ledger.prove()


async def test_a_payment_that_fails_later_is_processing_until_the_event(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    await stripe.send_events_to(f"{buyer.server.url}/api/v1/webhooks/stripe")
    asked = await buyer.buy(await stripe.bank_account(DECLINED_IBAN))
    assert (asked.status, asked.body["status"]) == (202, "processing")

    async def failed() -> bool:
        return (await buyer.purchase(asked.body["purchaseId"]))["status"] == "failed"

    await eventually(failed)
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0
    assert await buyer.balance() == 0


async def test_a_payment_that_succeeds_later_is_processing_until_the_event(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    account = await stripe.bank_account(DECLINED_IBAN)
    asked = await buyer.buy(account, key="k")
    assert (asked.status, asked.body["status"]) == (202, "processing")
    [payment] = await stripe.all("payment_intents")
    await send(buyer.server, buyer.http, event("payment_intent.succeeded", payment | {"amount_received": 500}))
    assert (await buyer.purchase(asked.body["purchaseId"]))["status"] == "succeeded"
    assert await buyer.balance() == 500
    again = await buyer.buy(account, key="k")
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (202, asked.body, "true")
    ledger.prove()


async def test_without_redis_nothing_is_charged(launch_paying: LaunchPaying, stripe: Stripe, tmp_path: Path) -> None:
    card = await stripe.card()
    with embedded.redis(tmp_path) as url:
        buyer = launch_paying(REDIS_URL=url)
    admin = Buyer(buyer.http, buyer.server, "root", role="admin")
    grant = {"userId": "ann", "tokens": 1, "reason": "r"}
    for answer in (
        await buyer.buy(card, key="k"),
        await admin.ask("POST", "/api/v1/admin/grants", grant, Idempotency_Key="g"),
        await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": str(uuid4())}, Idempotency_Key="r"),
    ):
        assert (answer.status, answer.body["code"]) == (503, "limiter_unavailable")
        assert answer.headers["Retry-After"]
    assert await stripe.all("payment_intents") == []
    with embedded.redis(tmp_path):
        assert (await buyer.buy(card, key="k")).status == 200


async def test_with_a_redis_that_hangs_the_answer_is_the_same_as_without_one(
    launch_paying: LaunchPaying, stripe: Stripe, tmp_path: Path
) -> None:
    card = await stripe.card()
    with embedded.redis(tmp_path) as url:
        buyer = launch_paying(REDIS_URL=url)
        with redis.from_url(url) as client:
            process_id = client.info("server")["process_id"]
        os.kill(process_id, signal.SIGSTOP)
        try:
            answer = await buyer.buy(card, key="k")
        finally:
            os.kill(process_id, signal.SIGCONT)
        assert (answer.status, answer.body["code"]) == (503, "limiter_unavailable")
        assert await stripe.all("payment_intents") == []

        async def answered() -> bool:
            return (await buyer.buy(card, key="k")).status == 200

        await eventually(answered)
        buyer.server.stop()


async def test_without_stripe_nothing_is_held_and_the_key_stays_free(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    buyer = launch_paying(STRIPE_API_BASE="http://127.0.0.1:9")
    answer = await buyer.buy("pm_any", key="k")
    assert (answer.status, answer.body["code"]) == (503, "payments_unavailable")
    assert answer.headers["Retry-After"]
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0
    recovered = launch_paying()
    assert (await recovered.buy(await stripe.card(), key="k")).status == 200


async def test_another_ones_purchase_is_not_there(buyer: Buyer, stripe: Stripe) -> None:
    bob = Buyer(buyer.http, buyer.server, "bob")
    purchase_id = (await buyer.buy(await stripe.card())).body["purchaseId"]
    for wrong in (purchase_id, "not-an-id"):
        answer = await bob.ask("GET", f"/api/v1/payments/purchases/{wrong}")
        assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_tokens_are_by_the_setting(launch_paying: LaunchPaying, stripe: Stripe) -> None:
    buyer = launch_paying(TOKENS_PER_USD=3)
    assert (await buyer.buy(await stripe.card(), 199)).body["tokens"] == 5
    launch_less = launch_paying(TOKENS_PER_USD=1)
    answer = await launch_less.buy(await stripe.card(), 99)
    assert (answer.status, answer.body["code"]) == (400, "invalid_payload")


# -- the old route and the toggle --------------------------------------------------------------------------------------


async def test_the_old_route_names_the_new_one_and_shares_its_keys(buyer: Buyer, stripe: Stripe) -> None:
    card = await stripe.card()
    old = await buyer.buy(card, key="k", route=OLD)
    assert old.status == 200
    assert old.headers["Deprecation"].startswith("@")
    assert old.headers["Link"] == f'<{NEW}>; rel="successor-version"'
    new = await buyer.buy(card, key="k")
    assert new.body == old.body
    assert "Deprecation" not in new.headers
    assert len(await stripe.charges()) == 1


async def test_the_old_route_says_that_it_is_old_on_its_refusals_too(buyer: Buyer, stripe: Stripe) -> None:
    for answer in (
        await buyer.buy(await stripe.card(DECLINED_CARD), route=OLD),
        await buyer.ask("POST", OLD, {"amountInCents": "five"}),
        await buyer.ask("POST", OLD, Authorization="Bearer nobody"),
    ):
        assert answer.status in {400, 401, 402}
        assert answer.headers["Deprecation"].startswith("@")
        assert "successor-version" in answer.headers["Link"]


async def test_a_double_click_on_the_old_route_without_a_key_charges_once(buyer: Buyer, stripe: Stripe) -> None:
    body = {"amountInCents": 500, "paymentMethodId": await stripe.card()}
    first, second = await asyncio.gather(*(buyer.ask("POST", OLD, body) for _ in range(2)))
    assert {first.status, second.status} <= {200, 409}
    assert (await buyer.ask("POST", OLD, body)).headers["Idempotency-Replayed"] == "true"
    assert len(await stripe.charges()) == 1
    assert (await buyer.ask("POST", OLD, body | {"amountInCents": 600})).status == 200
    assert len(await stripe.charges()) == 2


async def test_with_the_toggle_off_only_the_old_route_answers_and_nothing_is_lost(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    buyer = launch_paying()
    card = await stripe.card()
    asked = await buyer.buy(await stripe.card(AUTHENTICATED_CARD), key="3ds")
    paid = await buyer.buy(card, key="k")
    buyer.server.stop()
    buyer = launch_paying(ENABLE_ENHANCED_FEATURES="false")
    assert (await buyer.buy(card)).status == 404
    assert (await buyer.ask("GET", f"/api/v1/payments/purchases/{paid.body['purchaseId']}")).status == 404
    again = await buyer.buy(card, key="k", route=OLD)
    assert again.body == paid.body
    assert "Deprecation" not in again.headers
    await stripe.send_events_to(f"{buyer.server.url}/api/v1/webhooks/stripe")
    await stripe.authenticate(asked.body["clientSecret"])

    await buyer.has(1000)
    assert len(await stripe.charges()) == 2
    ledger.prove()


@pytest.mark.parametrize("route", [NEW, OLD])
async def test_buying_needs_a_user(server: Server, stripe: Stripe, route: str) -> None:
    async with stripe.http.post(server.url + route, json={}) as answer:
        assert answer.status == 401
