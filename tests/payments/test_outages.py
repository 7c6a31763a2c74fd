"""Stripe half away: answers that get lost, errors in the middle. Nobody is charged twice, and nothing stays unknown."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from ledger.stripe_api import API_VERSION
from realtime.services import jobs
from tests.payments.conftest import Buyer, LaunchPaying, Ledger, send
from tests.payments.stripe import AUTHENTICATED_CARD, Stripe, event
from tests.payments.unreliable import Unreliable, between
from tests.servers import Launch, eventually


@pytest.fixture
async def network(stripe: Stripe, http: aiohttp.ClientSession):
    async with between(stripe.url, http) as network:
        yield network


@pytest.fixture
def buyer(launch_paying: LaunchPaying, network: Unreliable) -> Buyer:
    return launch_paying(module="tests.payments.hasty", STRIPE_API_BASE=network.url)


async def test_a_lost_answer_to_the_confirmation_is_found_out_at_once(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    network.lose = lambda _, path: path.endswith("/confirm")
    answer = await buyer.buy(await stripe.card(), key="k")
    assert (answer.status, answer.body["status"]) == (200, "succeeded")
    assert network.count("/confirm") > 1
    assert len(await stripe.charges()) == 1
    ledger.prove()


async def test_an_outcome_nobody_can_tell_is_processing_and_the_job_finds_it_out(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    network.lose = lambda _, path: path.endswith("/confirm")
    network.refuse = lambda method, _: method == "GET"
    card = await stripe.card()
    answer = await buyer.buy(card, key="k")
    assert (answer.status, answer.body["status"]) == (202, "processing")
    assert len(await stripe.charges()) == 1
    network.recover()

    await buyer.has(500)
    assert (await buyer.purchase(answer.body["purchaseId"]))["status"] == "succeeded"
    assert (await buyer.buy(card, key="k")).body == answer.body
    assert len(await stripe.charges()) == 1
    ledger.prove()


async def test_a_buyer_whose_bank_asks_only_after_the_answer_can_still_authenticate(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    network.refuse = lambda method, path: method == "GET" or path.endswith("/confirm")
    card = await stripe.card(AUTHENTICATED_CARD)
    answer = await buyer.buy(card, key="k")
    assert (answer.status, answer.body["status"]) == (202, "processing")
    network.recover()

    async def asked() -> bool:
        return (await buyer.purchase(answer.body["purchaseId"]))["status"] == "requires_action"

    await eventually(asked)
    assert (await buyer.buy(card, key="k")).body == answer.body  # which has nothing to authenticate with
    network.refuse = lambda _method, _path: True
    assert "clientSecret" not in await buyer.purchase(answer.body["purchaseId"])
    network.recover()
    await stripe.send_events_to(f"{buyer.server.url}/api/v1/webhooks/stripe")
    await stripe.authenticate((await buyer.purchase(answer.body["purchaseId"]))["clientSecret"])
    await buyer.has(500)
    assert "clientSecret" not in await buyer.purchase(answer.body["purchaseId"])
    ledger.prove()


async def test_lost_answers_to_the_making_leave_nothing_charged(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    network.lose = lambda method, path: method == "POST" and path.endswith("/payment_intents")
    card = await stripe.card()
    answer = await buyer.buy(card, key="k")
    assert (answer.status, answer.body["code"]) == (503, "payments_unavailable")
    assert await stripe.charges() == []
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0
    network.recover()
    assert (await buyer.buy(card, key="k")).status == 200
    assert len(await stripe.charges()) == 1


async def test_a_confirmation_that_never_arrives_is_repeated_by_the_job(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    network.refuse = lambda _, path: path.endswith("/confirm")
    answer = await buyer.buy(await stripe.card(), key="k")
    assert (answer.status, answer.body["status"]) == (202, "processing")
    assert await stripe.charges() == []
    network.recover()

    await buyer.has(500)
    assert len(await stripe.charges()) == 1
    ledger.prove()


async def test_what_nobody_waits_for_any_more_is_cancelled_and_not_charged(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    network.refuse = lambda _, path: path.endswith("/confirm")
    answer = await buyer.buy(await stripe.card(), key="k")
    await ledger.conn.execute("UPDATE purchases SET created_at = now() - interval '3 minutes'")
    network.recover()

    async def let_go() -> bool:
        return (await buyer.purchase(answer.body["purchaseId"]))["status"] == "failed"

    await eventually(let_go)
    assert [intent["status"] for intent in await stripe.all("payment_intents")] == ["canceled"]
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0


async def test_a_confirmation_that_hangs_is_processing_when_the_request_has_waited_long_enough(
    launch_paying: LaunchPaying, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    buyer = launch_paying(module="tests.payments.hasty", STRIPE_API_BASE=network.url, ATTEMPT_S=6)
    network.hang = lambda _, path: path.endswith("/confirm")
    card = await stripe.card()
    asking = asyncio.create_task(buyer.buy(card, key="k"))
    await eventually(lambda: network.count("/confirm"))
    meanwhile = await buyer.buy(card, key="k")
    assert (meanwhile.status, meanwhile.body["code"]) == (409, "idempotency_in_progress")
    answer = await asking
    assert (answer.status, answer.body["status"]) == (202, "processing")
    assert (await buyer.purchase(answer.body["purchaseId"]))["status"] == "processing"
    network.recover()

    await buyer.has(500)
    assert len(await stripe.charges()) == 1
    ledger.prove()


async def test_a_making_that_hangs_leaves_nothing_held_and_the_key_free(
    launch_paying: LaunchPaying, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    buyer = launch_paying(module="tests.payments.hasty", STRIPE_API_BASE=network.url, ATTEMPT_S=2)
    network.hang = lambda method, path: method == "POST" and path.endswith("/payment_intents")
    card = await stripe.card()
    answer = await buyer.buy(card, 10_000, key="k")
    assert (answer.status, answer.body["code"]) == (503, "payments_unavailable")
    network.recover()
    assert (await buyer.buy(card, 10_000, key="k")).status == 200  # all of the day's allowance is there
    assert len(await stripe.charges()) == 1


async def test_a_buyer_who_never_authenticates_is_let_go_and_cannot_pay_any_more(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    await ledger.conn.execute("UPDATE purchases SET created_at = now() - interval '2 hours', next_check_at = now()")
    await jobs.defer(ledger.conn, "check_purchase", purchase_id=asked["purchaseId"])

    async def let_go() -> bool:
        return (await buyer.purchase(asked["purchaseId"]))["status"] == "failed"

    await eventually(let_go)
    assert await ledger.conn.fetchval("SELECT failure FROM purchases") == "authentication_expired"
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0
    await stripe.authenticate(asked["clientSecret"])
    assert await stripe.charges() == []


async def test_an_event_that_cannot_take_effect_is_kept_and_does_when_the_provider_is_back(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    await stripe.authenticate(asked["clientSecret"], success=False)
    network.refuse = lambda _method, _path: True
    payment = {"id": asked["clientSecret"].split("_secret_")[0], "object": "payment_intent"}
    answer = await send(buyer.server, buyer.http, event("payment_intent.payment_failed", payment))
    assert (answer.status, answer.body["outcome"]) == (200, "kept")
    assert (await buyer.purchase(asked["purchaseId"]))["status"] == "requires_action"
    network.recover()

    async def applied() -> bool:
        return await ledger.conn.fetchval("SELECT outcome FROM stripe_events") == "applied"

    await eventually(applied)  # its outcome is written down when all its effects are
    assert (await buyer.purchase(asked["purchaseId"]))["status"] == "failed"


async def test_a_purchase_whose_own_job_was_lost_is_found_by_the_round_of_every_minute(
    launch: Launch, launch_paying: LaunchPaying, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    settings = stripe.settings | {"STRIPE_API_BASE": network.url}
    buyer = launch_paying(METER_IN_WEB="false", STRIPE_API_BASE=network.url)
    network.refuse = lambda _, path: path.endswith("/confirm")
    assert (await buyer.buy(await stripe.card())).status == 202
    await ledger.conn.execute("DELETE FROM procrastinate_jobs")
    await ledger.conn.execute("UPDATE purchases SET next_check_at = now()")
    network.recover()
    launch("worker", **settings)

    await buyer.has(500)
    every_minute = {"check_due_purchases", "check_due_refunds", "apply_pending_events", "retry_stalled_jobs"}

    async def all_went_round() -> bool:
        rounds = await ledger.conn.fetch("SELECT DISTINCT task_name FROM procrastinate_periodic_defers")
        return every_minute <= {row["task_name"] for row in rounds}

    await eventually(all_went_round)


async def test_a_payment_the_provider_has_never_heard_of_is_said_and_given_up_after_a_day(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    await stripe.ask("DELETE", "/_config/data")

    async def check_at_age(age: str) -> None:
        await ledger.conn.execute(f"UPDATE purchases SET created_at = now() - interval '{age}', next_check_at = now()")
        await jobs.defer(ledger.conn, "check_purchase", purchase_id=asked["purchaseId"])

    await check_at_age("23 hours")
    await eventually(lambda: "the payment provider does not know a payment" in buyer.server.log.read_text())
    assert (await buyer.purchase(asked["purchaseId"]))["status"] == "requires_action"
    await check_at_age("25 hours")

    async def given_up() -> bool:
        return (await buyer.purchase(asked["purchaseId"]))["status"] == "failed"

    await eventually(given_up)
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0


async def test_a_payment_that_was_charged_before_it_could_be_cancelled_is_credited_without_its_event(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD))).body
    payment = asked["clientSecret"].split("_secret_")[0]
    await ledger.conn.execute("UPDATE purchases SET status = 'failed', failure = 'declined', finished_at = now()")
    await ledger.conn.execute("UPDATE daily_spend SET spent_cents = 0")
    await stripe.authenticate(asked["clientSecret"])
    await jobs.defer(ledger.conn, "cancel_payment", payment_id=payment)

    await buyer.has(500)
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 500
    ledger.prove()


async def test_every_request_names_the_version_of_the_api_and_reports_nothing_about_the_one_before(
    launch_paying: LaunchPaying, stripe: Stripe, network: Unreliable
) -> None:
    buyer = launch_paying(STRIPE_API_BASE=network.url)  # no job of which asks as well, for a minute
    for _ in range(2):
        assert (await buyer.buy(await stripe.card())).status == 200
    assert len(network.headers) == 4
    assert {headers["Stripe-Version"] for headers in network.headers} == {API_VERSION}
    assert not any("X-Stripe-Client-Telemetry" in headers for headers in network.headers)
    assert len({headers["Idempotency-Key"] for headers in network.headers}) == 4


async def test_a_refund_the_provider_refused_is_said_and_may_be_ordered_again(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    admin = Buyer(buyer.http, buyer.server, "root", role="admin")
    order = {"purchaseId": (await buyer.buy(await stripe.card())).body["purchaseId"]}
    network.forbid = lambda method, path: method == "POST" and path.endswith("/refunds")
    refused = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key="r")
    assert (refused.status, refused.body["code"], refused.body["reason"]) == (409, "refund_refused", "charge_disputed")
    again = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key="r")
    assert (again.body, again.headers["Idempotency-Replayed"]) == (refused.body, "true")
    assert await ledger.audited("refund_refused") == 1
    assert await buyer.balance() == 500
    network.recover()
    paid_back = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key="another")
    assert (paid_back.status, paid_back.body["status"]) == (200, "refunded")
    asked = [
        headers["Idempotency-Key"]
        for (method, path), headers in zip(network.seen, network.headers, strict=True)
        if (method, path) == ("POST", "/v1/refunds")
    ]
    assert len(set(asked)) == 2  # Stripe would answer the first one's key with its refusal for a day


async def test_a_refund_of_a_payment_the_provider_has_lost_is_refused_by_name(buyer: Buyer, stripe: Stripe) -> None:
    admin = Buyer(buyer.http, buyer.server, "root", role="admin")
    order = {"purchaseId": (await buyer.buy(await stripe.card())).body["purchaseId"]}
    await stripe.ask("DELETE", "/_config/data")
    for key in ("one", "another"):
        refused = await admin.ask("POST", "/api/v1/admin/refunds", order, Idempotency_Key=key)
        assert (refused.status, refused.body["code"], refused.body["reason"]) == (
            409,
            "refund_refused",
            "resource_missing",
        )
    assert await buyer.balance() == 500


async def test_a_refund_whose_answer_is_lost_is_made_once(
    buyer: Buyer, stripe: Stripe, network: Unreliable, ledger: Ledger
) -> None:
    admin = Buyer(buyer.http, buyer.server, "root", role="admin")
    purchase = (await buyer.buy(await stripe.card())).body["purchaseId"]
    lost: list[str] = []

    def lose_and_then_be_away(method: str, path: str) -> bool:
        if method == "POST" and path.endswith("/refunds") and not lost:
            lost.append(path)
            network.refuse = lambda _method, path: path.endswith("/refunds")
            return True
        return False

    network.lose = lose_and_then_be_away
    answer = await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase}, Idempotency_Key="r")
    assert (answer.status, answer.body["status"]) == (202, "processing")
    network.recover()

    async def paid_back() -> bool:
        return (await buyer.purchase(purchase))["refundedCents"] == 500

    await eventually(paid_back)
    assert len(await stripe.all("refunds")) == 1
    assert await buyer.balance() == 0
    ledger.prove()
