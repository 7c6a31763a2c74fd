"""The operator's page follows what happens, pushed over the socket."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect

from tests.browser.browsing import People, in_a_call
from tests.browser.conftest import Grant
from tests.servers import Launch


def chart(page: Page, title: str) -> Locator:
    return page.get_by_role("figure", name=title).locator(".figure")


async def test_an_operator_sees_calls_tabs_and_the_books_change(launch: Launch, people: People, grant: Grant) -> None:
    server = launch(BILLING_PERIOD_SECONDS=2)
    await grant(server, "ann", 500)
    root = await (await people.come(server, "root", role="admin")).tab("/ops")
    await expect(chart(root, "Calls in progress")).to_have_text("0")
    await expect(chart(root, "Connected tabs")).to_have_text("1")
    books = root.get_by_role("table", name="Trial balance")
    await expect(books.get_by_role("row", name="wallet 500")).to_be_visible()
    await expect(books.get_by_role("row", name="Total 500 500")).to_be_visible()

    bob = await (await people.come(server, "bob")).home()
    ann = await (await people.come(server, "ann")).home()
    await in_a_call(ann, bob, "bob")
    await expect(chart(root, "Calls in progress")).to_have_text("1")
    await expect(chart(root, "Connected tabs")).to_have_text("3")
    await expect(chart(root, "Debits")).not_to_have_text("0")
    await expect(books.get_by_role("row", name="platform revenue")).not_to_have_text("platform revenue0")
    await expect(books.get_by_role("row", name="Total 500 500")).to_be_visible()
    await expect(root.locator(".chart-line").first).to_be_attached()


async def test_a_violation_that_a_browser_reports_shows_as_an_alarm(launch: Launch, people: People) -> None:
    server = launch()
    root = await people.come(server, "root", role="admin")
    page = await root.tab("/ops")
    tile = page.locator(".tile", has_text="CSP reports, last hour")
    await expect(tile).to_contain_text("0")
    report = '{"csp-report": {"document-uri": "/", "violated-directive": "script-src", "blocked-uri": "inline"}}'
    answer = await root.context.request.post(
        f"{server.url}/api/csp-report", data=report, headers={"Content-Type": "application/csp-report"}
    )
    assert answer.status == 204
    await expect(tile).to_contain_text("1")
    await expect(tile).to_have_class("tile card alarm")
