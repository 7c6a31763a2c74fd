"""Everything by keyboard alone, and the focus where one expects it."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.browser.browsing import People
from tests.browser.conftest import Grant
from tests.servers import Server


async def focused(page: Page) -> str:
    """What the focused element is called: its label or its text."""
    name: str = await page.evaluate(
        "(document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent ?? '').trim()"
    )
    return name


async def tab_to(page: Page, name: str) -> None:
    for _ in range(40):
        if await focused(page) == name:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"Tab never reaches {name!r}")


async def test_a_call_from_signing_in_to_hanging_up_without_a_mouse(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "gil", 500)
    hal = await (await people.come(server, "hal")).home()
    gil = await (await people.stranger(server)).tab()
    await gil.get_by_label("Your name").focus()
    await gil.keyboard.type("gil")
    await gil.keyboard.press("Enter")
    await expect(gil.get_by_role("button", name="Call hal")).to_be_visible()

    await gil.locator("body").focus()
    await gil.keyboard.press("Tab")
    assert await focused(gil) == "Skip to content"
    await tab_to(gil, "Call hal")
    await gil.keyboard.press("Enter")

    await expect(hal.get_by_role("alertdialog", name="gil is calling")).to_be_visible()
    await expect(hal.get_by_role("button", name="Answer")).to_be_focused()
    for _ in range(3):  # a browser lets a page keep a dialog open against one Escape, not against the next
        await hal.keyboard.press("Escape")
    await expect(hal.get_by_role("alertdialog")).to_be_visible()
    await expect(hal.get_by_role("button", name="Answer")).to_be_focused()
    await hal.keyboard.press("Enter")

    await expect(gil.get_by_role("heading", level=1, name="hal")).to_be_focused()
    await tab_to(gil, "End")
    await gil.keyboard.press("Enter")
    await expect(gil.get_by_role("dialog", name="Call ended")).to_be_visible()
    await expect(gil.get_by_role("button", name="Done")).to_be_focused()
    await gil.keyboard.press("Escape")
    await expect(gil.get_by_role("dialog")).to_have_count(0)


async def test_the_purchase_dialog_keeps_the_focus_and_gives_it_back(server: Server, people: People) -> None:
    ivy = await (await people.come(server, "ivy")).home()
    opener = ivy.get_by_role("button", name="Buy tokens", exact=True)
    await opener.focus()
    await ivy.keyboard.press("Enter")
    dialog = ivy.get_by_role("dialog", name="Buy tokens")
    await expect(dialog).to_be_visible()
    for _ in range(12):
        await ivy.keyboard.press("Tab")
        inside = await ivy.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
        assert inside, await focused(ivy)
    await ivy.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(opener).to_be_focused()
