"""Killed at each recovery point under twenty purchases at once: afterwards charges at Stripe = credits in the books."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import pytest

from tests.payments.conftest import NEW, OLD, Answer, Buyer, LaunchPaying, Ledger
from tests.payments.dying import OF_PURCHASES, OF_REFUNDS
from tests.payments.stripe import Stripe
from tests.servers import eventually

CENTS = 500
BUYERS = 20
PATIENT = 10
"""So many buyers ask again with their key; the others have closed the page and leave it to the jobs."""


async def _until_answered(buyer: Buyer, card: str, route: str = NEW) -> Answer:
    async def answered() -> Answer | None:
        answer = await buyer.buy(card, CENTS, key="the purchase", route=route)
        return answer if answer.status not in {409, 503} else None

    answer: Answer = await eventually(answered)
    return answer


@pytest.mark.parametrize("point", OF_PURCHASES)
async def test_a_kill_leaves_each_purchase_charged_and_credited_once_or_not_at_all(
    point: str, launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    card = await stripe.card()
    dying = launch_paying(module="tests.payments.dying", DIE_AT=point, DIE_NTH=BUYERS // 2)
    buyers = [Buyer(dying.http, dying.server, f"buyer-{n}") for n in range(BUYERS)]
    outcomes = await asyncio.gather(
        *(buyer.buy(card, CENTS, key="the purchase") for buyer in buyers), return_exceptions=True
    )
    assert dying.server.process.wait(30) == -9
    assert any(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes)

    alive = launch_paying(module="tests.payments.hasty")
    for buyer in buyers:
        buyer.server = alive.server
    answers = await asyncio.gather(*(_until_answered(buyer, card) for buyer in buyers[:PATIENT]))
    assert {answer.status for answer in answers} == {200}
    assert {answer.body["status"] for answer in answers} == {"succeeded"}

    async def all_finished() -> bool:
        unfinished = "SELECT count(*) FROM purchases WHERE status NOT IN ('succeeded', 'failed')"
        return await ledger.conn.fetchval(unfinished) == 0

    await eventually(all_finished, 40)

    paid = {intent["id"]: intent["metadata"]["purchaseId"] for intent in await stripe.all("payment_intents")}
    charges = Counter(paid[charge["payment_intent"]] for charge in await stripe.charges())
    rows = await ledger.conn.fetch("SELECT id::text, user_id FROM purchases WHERE status = 'succeeded'")
    assert charges == {row["id"]: 1 for row in rows}
    credited = await ledger.conn.fetch(
        "SELECT owner_id, balance FROM accounts WHERE kind = 'wallet' AND balance <> 0 ORDER BY owner_id"
    )
    assert {row["owner_id"]: row["balance"] for row in credited} == {row["user_id"]: CENTS for row in rows}
    assert {f"buyer-{n}" for n in range(PATIENT)} <= {row["user_id"] for row in rows}
    assert await ledger.balance("stripe_clearing") == CENTS * len(rows)
    held = await ledger.conn.fetchval("SELECT sum(spent_cents)::bigint FROM daily_spend")
    assert held == CENTS * len(rows)
    for buyer, outcome in zip(buyers, outcomes, strict=True):
        if isinstance(outcome, Answer) and outcome.status == 200:
            again = await buyer.buy(card, CENTS, key="the purchase")
            assert again.body == outcome.body
    ledger.prove()


async def test_a_kill_and_a_restart_without_the_new_routes_lose_no_purchase(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    card = await stripe.card()
    dying = launch_paying(module="tests.payments.dying", DIE_AT="confirmed", DIE_NTH=3)
    buyers = [Buyer(dying.http, dying.server, f"buyer-{n}") for n in range(6)]
    await asyncio.gather(*(buyer.buy(card, CENTS, key="the purchase") for buyer in buyers), return_exceptions=True)
    assert dying.server.process.wait(30) == -9
    alive = launch_paying(module="tests.payments.hasty", ENABLE_ENHANCED_FEATURES="false")
    for buyer in buyers:
        buyer.server = alive.server
    answers = await asyncio.gather(*(_until_answered(buyer, card, OLD) for buyer in buyers))
    assert {answer.body["status"] for answer in answers} == {"succeeded"}
    assert len(await stripe.charges()) == len(buyers)
    assert await ledger.balance("stripe_clearing") == CENTS * len(buyers)
    ledger.prove()


@pytest.mark.parametrize("point", OF_REFUNDS)
async def test_a_kill_leaves_a_refund_paid_back_and_booked_once(
    point: str, launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    dying = launch_paying(module="tests.payments.dying", DIE_AT=point, DIE_NTH=1)
    purchase = (await dying.buy(await stripe.card(), CENTS)).body["purchaseId"]
    admin = Buyer(dying.http, dying.server, "root", role="admin")
    with pytest.raises(aiohttp.ClientError):
        await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase}, Idempotency_Key="r")
    assert dying.server.process.wait(30) == -9

    alive = launch_paying(module="tests.payments.hasty")
    admin.server = alive.server

    async def paid_back() -> bool:
        return (await alive.purchase(purchase))["refundedCents"] == CENTS

    await eventually(paid_back)

    async def answered() -> Answer | None:
        answer = await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase}, Idempotency_Key="r")
        return answer if answer.status != 409 else None

    answer: Answer = await eventually(answered)
    assert (answer.status, answer.body["status"]) == (200, "refunded")
    assert [refund["amount"] for refund in await stripe.all("refunds")] == [CENTS]
    assert await alive.balance() == 0
    assert await ledger.journals("refund") == 1
    ledger.prove()


@pytest.mark.parametrize("offset_s", [-7200, 7200])
async def test_a_purchase_is_finished_by_its_age_whatever_the_clock_of_who_finishes_it_says(
    offset_s: int, launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger
) -> None:
    dying = launch_paying(module="tests.payments.dying", DIE_AT="claimed", DIE_NTH=1)
    with pytest.raises(aiohttp.ClientError):
        await dying.buy(await stripe.card(), CENTS, key="the purchase")
    assert dying.server.process.wait(30) == -9
    if offset_s < 0:  # too old to be charged now, by the clock that counts
        await ledger.conn.execute("UPDATE purchases SET created_at = created_at - interval '1 hour'")
    launch_paying(module="tests.faults.skewed", CLOCK_OFFSET_S=offset_s)

    async def finished() -> str | None:
        status: str = await ledger.conn.fetchval("SELECT status::text FROM purchases")
        return status if status in {"succeeded", "failed"} else None

    assert await eventually(finished) == ("succeeded" if offset_s > 0 else "failed")
    assert len(await stripe.charges()) == (1 if offset_s > 0 else 0)
    ledger.prove()
