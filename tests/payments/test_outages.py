"""Stripe half away: answers that get lost, errors in the middle. Nobody is charged twice, and nothing stays unknown."""

from __future__ import annotations

import aiohttp
import pytest

from tests.payments.conftest import Buyer, LaunchPaying, Ledger
from tests.payments.stripe import Stripe
from tests.payments.unreliable import Unreliable, between
from tests.servers import eventually


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

    async def credited() -> bool:
        return await buyer.balance() == 500

    await eventually(credited, 30)
    assert (await buyer.purchase(answer.body["purchaseId"]))["status"] == "succeeded"
    assert (await buyer.buy(card, key="k")).body == answer.body
    assert len(await stripe.charges()) == 1
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

    async def credited() -> bool:
        return await buyer.balance() == 500

    await eventually(credited, 30)
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

    await eventually(let_go, 30)
    assert [intent["status"] for intent in await stripe.all("payment_intents")] == ["canceled"]
    assert await ledger.conn.fetchval("SELECT sum(spent_cents) FROM daily_spend") == 0


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

    await eventually(paid_back, 30)
    assert len(await stripe.all("refunds")) == 1
    assert await buyer.balance() == 0
    ledger.prove()
