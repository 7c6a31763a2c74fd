"""Every screen, on a desktop in light and on a phone in dark: looked at by axe, and pictured on request.

SCREENSHOTS=docs/screenshots scripts/test tests/browser/test_screens.py
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.browsing import DESKTOP, PHONE, People, in_a_call
from tests.browser.conftest import Grant
from tests.payments.stripe import Stripe
from tests.servers import ROOT, Launch, Server, Tab, eventually, token_of

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"

LOOKS: tuple[tuple[str, Any, Literal["light", "dark"]], ...] = (
    ("desktop-light", DESKTOP["viewport"], "light"),
    ("phone-dark", PHONE["viewport"], "dark"),
)

SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""The directory for pictures, seen from the checkout; none are made without it."""

Look = Callable[..., Awaitable[None]]


@pytest.fixture
def look() -> Look:
    """Have axe look at a screen on a desktop in light and on a phone in dark, and picture both."""

    async def at(page: Page, screen: str, *, whole: bool = False) -> None:
        for name, viewport, colour in LOOKS:
            await page.set_viewport_size(viewport)
            await page.emulate_media(color_scheme=colour, reduced_motion="reduce")
            if SCREENSHOTS:
                if whole:  # on a screen as high as the page, so that what is fixed to its foot is there
                    height = await page.evaluate("document.documentElement.scrollHeight")
                    await page.set_viewport_size({"width": viewport["width"], "height": height})
                await page.screenshot(path=ROOT / SCREENSHOTS / f"{screen}-{name}.png", animations="disabled")
            found = await findings(page)
            assert found == [], f"{screen}, {name}: " + "; ".join(found)

    return at


async def findings(page: Page) -> list[str]:
    """What axe finds, of any weight."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    result: dict[str, Any] = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{broken['impact']}: {broken['id']} at {' '.join(str(part) for part in node['target'])}"
        for broken in result["violations"]
        for node in broken["nodes"]
    ]


async def test_every_screen_of_a_call_is_accessible(launch: Launch, people: People, grant: Grant, look: Look) -> None:
    server = launch(BILLING_PERIOD_SECONDS=60)
    await _company(server, people)
    await grant(server, "Maya Lindqvist", 1250)
    await _earlier_calls(server, grant)
    stranger = await (await people.stranger(server)).tab()
    await expect(stranger.get_by_label("Your name")).to_be_visible()
    await look(stranger, "sign-in")

    jonas = await (await people.come(server, "Jonas Weber")).home()
    maya = await (await people.come(server, "Maya Lindqvist")).home()
    await expect(maya.get_by_role("button", name="Call Jonas Weber")).to_be_visible()
    await look(maya, "people")

    await maya.get_by_role("button", name="Call Jonas Weber").click()
    await expect(maya.get_by_role("dialog", name="Calling Jonas Weber")).to_be_visible()
    await look(maya, "calling")
    await expect(jonas.get_by_role("alertdialog")).to_be_visible()
    await look(jonas, "ringing")
    await jonas.get_by_role("button", name="Answer").click()
    for page, name in ((maya, "call-payer"), (jonas, "call-callee")):
        await expect(page.locator(".remote video")).to_be_visible()
        await expect(page.locator(".self video")).to_be_visible()
        await look(page, name)

    other_tab = await maya.context.new_page()
    await other_tab.goto(server.url)
    await expect(other_tab.get_by_role("button", name="Continue here")).to_be_visible()
    await look(other_tab, "elsewhere")
    await other_tab.close()  # the tab before it draws slowly behind it, and clicks wait for what is drawn

    await maya.get_by_role("button", name="End").click()
    await expect(maya.get_by_role("dialog", name="Call ended")).to_be_visible()
    await look(maya, "summary")
    await maya.get_by_role("button", name="Done").click()

    await maya.get_by_role("link", name="History").click()
    await expect(maya.get_by_text("Jonas Weber")).to_be_visible()
    await expect(maya.get_by_text("Declined")).to_be_visible()
    await look(maya, "history-calls")
    await maya.get_by_role("button", name="Tokens", exact=True).click()
    await expect(maya.get_by_text("+1,250")).to_be_visible()
    await look(maya, "history-tokens")

    await jonas.get_by_role("button", name="Done").click()
    await jonas.get_by_role("link", name="Earnings").click()
    await expect(jonas.get_by_test_id("earnings")).not_to_have_text("0")
    await look(jonas, "earnings")


async def test_every_screen_of_a_purchase_is_accessible(
    launch: Launch, people: People, look: Look, stripe: Stripe
) -> None:
    server = launch(**stripe.settings)
    await stripe.send_events_to(f"{server.url}/api/v1/webhooks/stripe")
    maya = await (await people.come(server, "Maya Lindqvist")).home()
    await maya.get_by_role("button", name="Buy tokens", exact=True).click()
    await expect(maya.get_by_label("Card number")).to_be_visible()
    await look(maya, "buy")

    cards = maya.get_by_label("Test card")
    await cards.select_option(label="Is declined (ends in 0341)")
    await maya.get_by_role("button", name="Pay $").click()
    await expect(maya.get_by_role("alert")).to_be_visible()
    await look(maya, "declined")

    await cards.select_option(label="Asks for authentication (ends in 3155)")
    await maya.get_by_role("button", name="Pay $").click()
    await expect(maya.get_by_role("button", name="Yes, authenticate")).to_be_visible()
    await look(maya, "bank")
    await maya.get_by_role("button", name="Yes, authenticate").click()
    await expect(maya.get_by_role("heading", name="1,000 tokens are yours")).to_be_visible()
    await look(maya, "bought")


async def test_the_operators_page_is_accessible(launch: Launch, people: People, grant: Grant, look: Look) -> None:
    server = launch(BILLING_PERIOD_SECONDS=2)
    await grant(server, "Maya Lindqvist", 1250)
    root = await (await people.come(server, "root", role="admin")).tab("/ops")
    jonas = await (await people.come(server, "Jonas Weber")).home()
    maya = await (await people.come(server, "Maya Lindqvist")).home()
    await in_a_call(maya, jonas, "Jonas Weber")
    drawn = root.locator(".chart-line").first
    await eventually(lambda: _points(drawn, 20 if SCREENSHOTS else 2), 60)
    await look(root, "operations", whole=True)


async def _points(line: Locator, at_least: int) -> bool:
    return await line.count() > 0 and len((await line.get_attribute("points") or "").split()) >= at_least


async def test_a_call_about_to_run_out_is_accessible(launch: Launch, people: People, grant: Grant, look: Look) -> None:
    server = launch(BILLING_PERIOD_SECONDS=60)
    await grant(server, "Maya Lindqvist", 20)
    jonas = await (await people.come(server, "Jonas Weber")).home()
    maya = await (await people.come(server, "Maya Lindqvist", agora=False)).home()
    await in_a_call(maya, jonas, "Jonas Weber")
    await expect(maya.get_by_text("Your balance pays for 1 min more.")).to_be_visible()
    await expect(maya.get_by_text("The video service can’t be reached.")).to_be_visible()
    await look(maya, "low-balance")


async def _company(server: Server, people: People) -> None:
    """Some others online, at rates of their own."""
    for name, tokens in (("Amara Okafor", 15), ("Lucía Paredes", 25), ("Theo Brandt", 8)):
        other = await people.come(server, name)
        session = await (await other.context.request.get(f"{server.url}/bff/session")).json()
        changed = await other.context.request.put(
            f"{server.url}/api/v1/me/rate",
            data={"tokensPerPeriod": tokens},
            headers={"X-CSRF-Token": session["csrfToken"]},
        )
        assert changed.ok, await changed.text()
        await other.home()


async def _earlier_calls(server: Server, grant: Grant) -> None:
    """A history to show: two calls that were paid, one declined and one given up."""
    paid, given_up = ("call:accept", "call:end"), ("call:cancel",)
    for caller, callee, steps in (
        ("Maya Lindqvist", "Amara Okafor", paid),
        ("Lucía Paredes", "Maya Lindqvist", ("call:decline",)),
        ("Maya Lindqvist", "Theo Brandt", given_up),
        ("Theo Brandt", "Jonas Weber", paid),
    ):
        if caller != "Maya Lindqvist":
            await grant(server, caller, 100)
        tabs = [await Tab(server, name, token_of(name)).connect() for name in (caller, callee)]
        rung = await tabs[0].ask("call:start", {"calleeId": callee, "requestId": f"{caller} {callee}"})
        for step in steps:
            whose = tabs[0] if steps is given_up else tabs[1]
            assert (await whose.ask(step, {"callId": rung["call"]["id"]}))["ok"]
        for tab in tabs:
            await tab.close()
