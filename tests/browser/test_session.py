"""Signing in and out: a cookie that no script can read, and nothing of one user left for the next."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.browsing import People
from tests.browser.conftest import Grant
from tests.servers import Server


async def test_signing_in_leaves_no_token_within_the_reach_of_scripts(server: Server, people: People) -> None:
    stranger = await people.stranger(server)
    page = await stranger.tab()
    await page.get_by_label("Your name").fill("bea")
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("heading", name="People")).to_be_visible()

    [cookie] = await stranger.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    reachable = await page.evaluate(
        "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, document.documentElement.outerHTML])"
    )
    assert cookie["value"] not in reachable
    assert "eyJ" not in reachable, "no JWT"


async def test_a_reload_stays_signed_in_and_another_user_sees_nothing_of_the_last(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "carl", 4321)
    carl = await people.come(server, "carl")
    page = await carl.home()
    await expect(page.get_by_test_id("balance")).to_have_text("4,321")
    await page.reload()
    await expect(page.get_by_test_id("balance")).to_have_text("4,321")

    await page.get_by_role("button", name="Sign out carl").click()
    await page.get_by_label("Your name").fill("cora")
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_test_id("balance")).to_have_text("0")
    await expect(page.get_by_text("4,321")).to_have_count(0)


async def test_a_server_that_cannot_be_reached_is_said_and_tried_again(server: Server, people: People) -> None:
    dora = await people.come(server, "dora")
    await dora.context.route("**/bff/session", lambda route: route.abort())
    page = await dora.tab()
    await expect(page.get_by_role("heading", name="The server can’t be reached")).to_be_visible()
    await dora.context.unroute("**/bff/session")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("heading", name="People")).to_be_visible()


async def test_operators_see_operations_and_others_do_not(server: Server, people: People) -> None:
    edna = await (await people.come(server, "edna")).tab("/ops")
    await expect(edna.get_by_text("This page is for operators.")).to_be_visible()
    await expect(edna.get_by_role("link", name="Operations")).to_have_count(0)
    otto = await (await people.come(server, "otto", role="admin")).home()
    await expect(otto.get_by_role("link", name="Operations")).to_be_visible()
