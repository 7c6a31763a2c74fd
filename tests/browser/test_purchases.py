"""Buying tokens in a browser: once, whatever is clicked, lost or reloaded; counted at the Stripe stand-in."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.browsing import People, Person, in_a_call
from tests.browser.conftest import Grant
from tests.metering import meter_clock
from tests.payments.stripe import Stripe
from tests.servers import Launch, Server, eventually

PURCHASE = "**/api/v1/payments/purchase-tokens"


@pytest.fixture
def shop(server: Server, stripe: Stripe) -> Server:
    """The shared server, with nothing at the Stripe stand-in yet."""
    return server


async def open_shop(launch: Launch, stripe: Stripe, **settings: object) -> Server:
    """A server with settings of its own."""
    server = launch(**stripe.settings, **settings)
    await stripe.send_events_to(f"{server.url}/api/v1/webhooks/stripe")
    return server


async def at_the_till(person: Person, *, card: str = "Pays") -> Page:
    """A tab with the purchase dialog open and a test card chosen."""
    page = await person.home()
    await page.get_by_role("button", name="Buy tokens", exact=True).click()
    await choose(page, card)
    return page


async def choose(page: Page, card: str) -> None:
    choice = page.get_by_label("Test card")
    await choice.select_option(label=await choice.locator("option", has_text=card).inner_text())


async def pay(page: Page) -> None:
    await page.get_by_role("button", name="Pay $").click()


async def test_buying_in_one_tab_updates_the_others(shop: Server, people: People) -> None:
    adam = await people.come(shop, "adam")
    others = [await adam.home() for _ in range(2)]
    page = await at_the_till(adam)
    await page.get_by_label("$20").check()
    await expect(page.get_by_text("You get 2,000 tokens.")).to_be_visible()
    await pay(page)
    await expect(page.get_by_role("heading", name="2,000 tokens are yours")).to_be_visible()
    for tab in (page, *others):
        await expect(tab.get_by_test_id("balance")).to_have_text("2,000")
        await expect(tab.get_by_text("Tokens bought")).to_be_visible()


async def test_a_double_click_charges_once(shop: Server, people: People, stripe: Stripe) -> None:
    page = await at_the_till(await people.come(shop, "bess"))
    await page.get_by_role("button", name="Pay $").evaluate("button => { button.click(); button.click(); }")
    await expect(page.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    await page.get_by_role("button", name="Done").click()
    await expect(page.get_by_test_id("balance")).to_have_text("1,000")
    assert len(await stripe.charges()) == 1


async def test_a_purchase_whose_answer_was_lost_is_finished_after_a_reload_and_charged_once(
    shop: Server, people: People, stripe: Stripe
) -> None:
    cyd = await people.come(shop, "cyd")
    page = await at_the_till(cyd)
    keys: list[str | None] = []

    async def lose_the_answer(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        await route.fetch()
        await route.abort()

    await cyd.context.route(PURCHASE, lose_the_answer)
    await pay(page)
    await expect(page.get_by_role("heading", name="The server didn’t answer")).to_be_visible()
    await cyd.context.unroute(PURCHASE)
    cyd.context.on("request", lambda request: keys.append(request.headers.get("idempotency-key")))
    await page.reload()
    await expect(page.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    assert len({key for key in keys if key}) == 1, "one intent, one key"
    assert len([key for key in keys if key]) > 2
    assert len(await stripe.charges()) == 1
    await expect(page.get_by_test_id("balance")).to_have_text("1,000")


async def purchases_held_back(page: Page) -> asyncio.Event:
    """What the page buys is sent once this is set."""
    let_go = asyncio.Event()

    async def hold_back(route: Route) -> None:
        await let_go.wait()
        await route.continue_()

    await page.route(PURCHASE, hold_back)
    return let_go


@pytest.mark.parametrize("card", ["Pays", "Asks for authentication"])
async def test_a_purchase_goes_on_when_its_dialog_is_closed_and_its_outcome_is_told_beside_it(
    shop: Server, people: People, stripe: Stripe, card: str
) -> None:
    page = await at_the_till(await people.come(shop, f"fay {card[:4]}"), card=card)
    answer = await purchases_held_back(page)
    await pay(page)
    await expect(page.get_by_role("button", name="Charging your card…")).to_be_visible()
    await page.get_by_role("button", name="Close").click()
    await expect(page.get_by_role("dialog", name="Buy tokens")).to_have_count(0)
    answer.set()
    if card != "Pays":
        await page.get_by_role("button", name="Yes, authenticate").click()
    await expect(page.get_by_text("1,000 tokens are yours.")).to_be_visible()
    await expect(page.get_by_test_id("balance")).to_have_text("1,000")
    assert len(await stripe.charges()) == 1


async def test_a_dialog_opened_again_stands_aside_for_the_bank_and_shows_what_came_of_it(
    shop: Server, people: People, stripe: Stripe
) -> None:
    page = await at_the_till(await people.come(shop, "rufus"), card="Asks for authentication")
    answer = await purchases_held_back(page)
    await pay(page)
    await page.get_by_role("button", name="Close").click()
    await page.get_by_role("button", name="Buy tokens", exact=True).click()
    await expect(page.get_by_role("button", name="Charging your card…")).to_be_disabled()
    answer.set()
    await page.get_by_role("button", name="Yes, authenticate").click()
    await expect(page.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    assert len(await stripe.charges()) == 1


async def test_a_card_that_asks_for_authentication_pays_once_the_bank_agrees(
    shop: Server, people: People, stripe: Stripe
) -> None:
    dirk = await people.come(shop, "dirk")
    page = await at_the_till(dirk, card="Asks for authentication")
    await pay(page)
    await page.get_by_role("button", name="Yes, authenticate").click()
    await expect(page.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    await expect(page.get_by_test_id("balance")).to_have_text("1,000")
    assert len(await stripe.charges()) == 1


async def test_failing_at_the_bank_charges_nothing_and_another_card_works(
    shop: Server, people: People, stripe: Stripe
) -> None:
    elsa = await people.come(shop, "elsa")
    page = await at_the_till(elsa, card="Asks for authentication")
    await pay(page)
    await page.get_by_role("button", name="No, fail").click()
    await expect(page.get_by_text("Your bank didn’t confirm that it was you. Nothing was charged.")).to_be_visible()
    assert await stripe.charges() == []
    await choose(page, "Pays")
    await pay(page)
    await expect(page.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    assert len(await stripe.charges()) == 1


async def test_a_declined_card_is_said_and_nothing_is_charged(shop: Server, people: People, stripe: Stripe) -> None:
    page = await at_the_till(await people.come(shop, "fred"), card="Is declined")
    await pay(page)
    await expect(page.get_by_role("alert")).to_contain_text("Nothing was charged; you can try another card.")
    await expect(page.get_by_test_id("balance")).to_have_text("0")
    assert await stripe.charges() == []


async def test_what_is_wrong_in_the_card_form_is_said_before_anything_is_sent(shop: Server, people: People) -> None:
    gwen = await people.come(shop, "gwen")
    page = await at_the_till(gwen)
    sent: list[str] = []
    gwen.context.on("request", lambda request: sent.append(request.url))
    await page.get_by_label("Card number").fill("4242 4242")
    await pay(page)
    await expect(page.get_by_role("alert")).to_have_text("The card number needs 16 digits.")
    assert not [url for url in sent if "payment" in url]


async def test_too_many_purchases_are_told_how_long_to_wait(launch: Launch, people: People, stripe: Stripe) -> None:
    shop = await open_shop(launch, stripe, MONEY_OPS_PER_MINUTE=1)
    page = await at_the_till(await people.come(shop, "ann"))
    await pay(page)
    await page.get_by_role("button", name="Done").click()
    await page.get_by_role("button", name="Buy tokens", exact=True).click()
    await pay(page)
    await expect(page.get_by_text("Too many purchases in a short time.")).to_be_visible()
    shown = await page.get_by_test_id("retry-after").inner_text()
    await expect(page.get_by_test_id("retry-after")).not_to_have_text(shown)
    assert len(await stripe.charges()) == 1


async def test_the_daily_limit_says_what_is_left_of_it(launch: Launch, people: People, stripe: Stripe) -> None:
    shop = await open_shop(launch, stripe, DAILY_SPEND_LIMIT_CENTS=1500)
    page = await at_the_till(await people.come(shop, "ann"))
    await pay(page)
    await page.get_by_role("button", name="Done").click()
    await page.get_by_role("button", name="Buy tokens", exact=True).click()
    await pay(page)
    await expect(page.get_by_role("alert")).to_contain_text(
        re.compile(r"^That is over your daily limit of \$15\.00\. You can still spend \$5\.00 until \S+.*\.$")
    )


async def test_topping_up_in_the_call_takes_the_warning_away_and_keeps_it_going(
    launch: Launch, database_url: str, people: People, grant: Grant, stripe: Stripe
) -> None:
    shop = await open_shop(launch, stripe, CALL_GRACE_SECONDS=300)
    await grant(shop, "ann", 20)
    bob = await (await people.come(shop, "bob")).home()
    ann = await (await people.come(shop, "ann")).home()
    await in_a_call(ann, bob, "bob")
    await ann.get_by_role("alert").get_by_role("button", name="Top up").click()
    await pay(ann)
    await expect(ann.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    await ann.get_by_role("button", name="Done").click()
    await expect(ann.get_by_role("alert")).to_have_count(0)
    await expect(ann.get_by_test_id("call-balance")).to_have_text("1,010")
    async with meter_clock(database_url) as move:
        for ahead_s, spent in ((60, "20"), (120, "30")):
            await move(ahead_s)
            await expect(ann.get_by_test_id("spent")).to_have_text(spent)
    await expect(ann.get_by_role("button", name="End")).to_be_visible()


@pytest.mark.parametrize("card", ["Pays", "Asks for authentication"])
async def test_without_the_enhanced_features_the_page_buys_by_the_old_route(
    launch: Launch, people: People, stripe: Stripe, card: str
) -> None:
    shop = await open_shop(launch, stripe, ENABLE_ENHANCED_FEATURES="false")
    ivy = await people.come(shop, "ivy")
    asked: list[str] = []
    ivy.context.on("request", lambda request: asked.append(request.url.removeprefix(shop.url)))
    page = await at_the_till(ivy, card=card)
    other = await ivy.home()
    await pay(page)
    if card != "Pays":
        await page.get_by_role("button", name="Yes, authenticate").click()
    await expect(page.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    for tab in (page, other):
        await expect(tab.get_by_test_id("balance")).to_have_text("1,000")
    assert len(await stripe.charges()) == 1
    assert asked.count("/api/payments/tokens/purchase") == 1
    assert not [path for path in asked if path.startswith("/api/v1/payments/")]


STRIPE_JS = """
const said = (window.stripeSaid = []);
window.Stripe = (key) => ({
  _registerWrapper() {},
  elements(options) {
    said.push(["elements", key, options.mode, options.amount, options.currency, options.paymentMethodCreation]);
    return {
      create: () => ({
        mount(stage) { stage.textContent = "Stripe’s card form"; },
        once(event, listener) { if (event === "ready") setTimeout(listener); },
        destroy() {},
      }),
      update: ({ amount }) => said.push(["update", amount]),
      submit: async () => ({}),
    };
  },
  createPaymentMethod: async () => ({ paymentMethod: { id: window.paymentMethodId } }),
  handleNextAction: async ({ clientSecret }) => {
    said.push(["next", clientSecret]);
    return window.bank(clientSecret);
  },
});
"""


async def test_with_stripes_own_form_the_card_never_meets_this_server(
    shop: Server, people: People, stripe: Stripe
) -> None:
    hans = await people.come(shop, "hans")

    async def as_with_a_real_key(route: Route) -> None:
        answer = await route.fetch()
        session = await answer.json()
        session["config"] |= {"stripeApiBase": None, "stripePublishableKey": "pk_test_of_the_tests"}
        await route.fulfill(response=answer, json=session)

    async def bank(secret: str) -> dict[str, object]:
        await stripe.authenticate(secret)
        return {"paymentIntent": {"status": "succeeded"}}

    await hans.context.route("**/bff/session", as_with_a_real_key)
    await hans.context.route(
        "https://js.stripe.com/**", lambda route: route.fulfill(body=STRIPE_JS, content_type="text/javascript")
    )
    await hans.context.expose_function("bank", bank)
    page = await hans.home()
    await page.evaluate("id => { window.paymentMethodId = id }", await stripe.card("4000002500003155"))
    await page.get_by_role("button", name="Buy tokens", exact=True).click()
    await expect(page.get_by_text("Stripe’s card form")).to_be_visible()
    await page.get_by_label("$50").check()
    await pay(page)
    await expect(page.get_by_role("heading", name="5,000 tokens are yours")).to_be_visible()
    said = await page.evaluate("window.stripeSaid")
    assert said[0] == ["elements", "pk_test_of_the_tests", "payment", 1000, "usd", "manual"]
    assert ["update", 5000] in said
    assert [entry[0] for entry in said].count("next") == 1
    await eventually(stripe.charges)
