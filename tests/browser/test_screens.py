"""Every screen, light and dark, on a phone and a desktop: pictured, and looked at by axe.

The pictures go to the test's own directory; with SCREENSHOTS=docs/screenshots they become the documentation's.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Page, expect

from tests.browser.browsing import DESKTOP, PHONE, People, in_a_call
from tests.browser.conftest import Grant
from tests.servers import ROOT, Launch, Server

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"

SIZES = {"desktop": DESKTOP["viewport"], "phone": PHONE["viewport"]}
COLOURS: tuple[Literal["light", "dark"], ...] = ("light", "dark")

Look = Callable[[Page, str], Awaitable[None]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Picture a screen in every size and colour, and have axe look at each."""
    directory = ROOT / os.environ["SCREENSHOTS"] if os.environ.get("SCREENSHOTS") else tmp_path / "screens"

    async def at(page: Page, screen: str) -> None:
        for size, viewport in SIZES.items():
            await page.set_viewport_size(viewport)
            for colour in COLOURS:
                await page.emulate_media(color_scheme=colour, reduced_motion="reduce")
                name = f"{screen}-{size}-{colour}"
                await page.screenshot(path=directory / f"{name}.png", animations="disabled")
                found = await findings(page)
                assert found == [], "{name}: " + "; ".join(found)

    return at


async def findings(page: Page) -> list[str]:
    """What axe finds, of any weight."""
    await page.evaluate(AXE.read_text())
    result: dict[str, Any] = await page.evaluate("axe.run()")
    return [
        f"{broken['impact']}: {broken['id']} at {' '.join(str(part) for part in node['target'])}"
        for broken in result["violations"]
        for node in broken["nodes"]
    ]


async def test_every_screen_is_accessible(launch: Launch, people: People, grant: Grant, look: Look) -> None:
    server = launch(BILLING_PERIOD_SECONDS=60)
    await _company(server, people, grant)
    await grant(server, "Maya Lindqvist", 1250)

    stranger = await (await people.stranger(server)).tab()
    await expect(stranger.get_by_label("Your name")).to_be_visible()
    await look(stranger, "sign-in")

    maya = await (await people.come(server, "Maya Lindqvist")).home()
    jonas = await (await people.come(server, "Jonas Weber")).home()
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

    await maya.get_by_role("button", name="End").click()
    await expect(maya.get_by_role("dialog", name="Call ended")).to_be_visible()
    await look(maya, "summary")
    await maya.get_by_role("button", name="Done").click()

    await maya.get_by_role("link", name="History").click()
    await expect(maya.get_by_text("Jonas Weber")).to_be_visible()
    await look(maya, "history-calls")
    await maya.get_by_role("button", name="Tokens", exact=True).click()
    await expect(maya.get_by_text("+1,250")).to_be_visible()
    await look(maya, "history-tokens")

    await jonas.get_by_role("button", name="Done").click()
    await jonas.get_by_role("link", name="Earnings").click()
    await expect(jonas.get_by_test_id("earnings")).to_have_text("8")
    await look(jonas, "earnings")


async def test_a_call_about_to_run_out_is_accessible(launch: Launch, people: People, grant: Grant, look: Look) -> None:
    server = launch(BILLING_PERIOD_SECONDS=60)
    await grant(server, "Maya Lindqvist", 20)
    maya = await (await people.come(server, "Maya Lindqvist", agora=False)).home()
    jonas = await (await people.come(server, "Jonas Weber")).home()
    await in_a_call(maya, jonas, "Jonas Weber")
    await expect(maya.get_by_text("Your balance pays for 1 min more.")).to_be_visible()
    await expect(maya.get_by_text("The video service can’t be reached.")).to_be_visible()
    await look(maya, "low-balance")


async def _company(server: Server, people: People, grant: Grant) -> None:
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
