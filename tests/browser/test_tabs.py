"""Many tabs of one user: all show the same, at once, and after being away."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.browsing import People
from tests.browser.conftest import Grant
from tests.servers import Launch, Server


async def test_five_tabs_of_one_user_show_a_new_balance_at_once(server: Server, people: People, grant: Grant) -> None:
    await grant(server, "ada", 100)
    ada = await people.come(server, "ada")
    tabs = [await ada.home() for _ in range(5)]
    fetched: list[str] = []
    ada.context.on("request", lambda request: fetched.append(request.url))
    for tab in tabs:
        await expect(tab.get_by_test_id("balance")).to_have_text("100")
        await tab.wait_for_load_state("networkidle")
    fetched.clear()
    await grant(server, "ada", 25)
    for tab in tabs:
        await expect(tab.get_by_test_id("balance")).to_have_text("125")
        await expect(tab.get_by_test_id("wallet-balance")).to_have_text("125")
        await expect(tab.get_by_text("+25", exact=True)).to_be_visible()
    assert not [url for url in fetched if url.endswith("/api/v1/balance")], "the balance was pushed, not fetched"


async def test_a_tab_that_was_offline_catches_up(launch: Launch, people: People, grant: Grant) -> None:
    server = launch()
    await grant(server, "ann", 100)
    ann = await people.come(server, "ann")
    tab = await ann.home()
    await expect(tab.get_by_test_id("balance")).to_have_text("100")
    server.kill()
    await expect(tab.get_by_text("Reconnecting…")).to_be_visible()
    back = launch(PORT=server.port)
    await grant(back, "ann", 1)
    await grant(back, "ann", 2)
    await expect(tab.get_by_test_id("balance")).to_have_text("103")
    await expect(tab.get_by_text("+2", exact=True)).to_be_visible()
    await expect(tab.get_by_text("Reconnecting…")).to_have_count(0)


async def test_signing_out_in_one_tab_signs_the_others_out(server: Server, people: People) -> None:
    alma = await people.come(server, "alma")
    tabs = [await alma.home() for _ in range(2)]
    await tabs[0].get_by_role("button", name="Sign out alma").click()
    for tab in tabs:
        await expect(tab.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
