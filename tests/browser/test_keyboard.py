"""Everything by keyboard alone, and the focus where one expects it."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.browser.browsing import People
from tests.browser.conftest import Grant
from tests.servers import Launch


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
    launch: Launch, people: People, grant: Grant
) -> None:
    server = launch()
    await grant(server, "ann", 500)
    bob = await (await people.come(server, "bob")).home()
    ann = await (await people.stranger(server)).tab()
    await ann.get_by_label("Your name").focus()
    await ann.keyboard.type("ann")
    await ann.keyboard.press("Enter")
    await expect(ann.get_by_role("button", name="Call bob")).to_be_visible()

    await ann.locator("body").focus()
    await ann.keyboard.press("Tab")
    assert await focused(ann) == "Skip to content"
    await tab_to(ann, "Call bob")
    await ann.keyboard.press("Enter")

    await expect(bob.get_by_role("alertdialog", name="ann is calling")).to_be_visible()
    assert await focused(bob) == "Answer"
    await bob.keyboard.press("Escape")
    await expect(bob.get_by_role("alertdialog")).to_be_visible()
    await bob.keyboard.press("Enter")

    await expect(ann.get_by_role("heading", level=1, name="bob")).to_be_focused()
    await tab_to(ann, "End")
    await ann.keyboard.press("Enter")
    await expect(ann.get_by_role("dialog", name="Call ended")).to_be_visible()
    assert await focused(ann) == "Done"
    await ann.keyboard.press("Escape")
    await expect(ann.get_by_role("dialog")).to_have_count(0)


async def test_the_purchase_dialog_keeps_the_focus_and_gives_it_back(launch: Launch, people: People) -> None:
    server = launch()
    ann = await (await people.come(server, "ann")).home()
    opener = ann.get_by_role("button", name="Buy tokens", exact=True)
    await opener.focus()
    await ann.keyboard.press("Enter")
    dialog = ann.get_by_role("dialog", name="Buy tokens")
    await expect(dialog).to_be_visible()
    for _ in range(12):
        await ann.keyboard.press("Tab")
        inside = await ann.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
        assert inside, await focused(ann)
    await ann.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(opener).to_be_focused()
