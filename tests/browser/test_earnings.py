"""What those who are called are shown of it."""

from __future__ import annotations

from playwright.async_api import Route, expect

from tests.browser.browsing import People
from tests.servers import Server


def a_call(number: int, caller: str, callee: str) -> dict[str, object]:
    return {
        "id": f"00000000-0000-7000-8000-{number:012}", "callerId": caller, "calleeId": callee, "status": "ended",
        "startedAt": "2026-01-01T10:00:00.000Z", "endedAt": "2026-01-01T10:05:00.000Z", "endReason": "hangup",
        "ratePerPeriod": 10, "periodSeconds": 60, "periodsBilled": 5, "tokensSpent": 50,
    }  # fmt: skip


async def test_an_answered_call_behind_many_of_ones_own_is_found(server: Server, people: People) -> None:
    ruth = await people.come(server, "ruth")

    async def pages(route: Route) -> None:
        second = "cursor=" in route.request.url
        calls = [a_call(1, "sol", "ruth")] if second else [a_call(n, "ruth", "tim") for n in range(100, 125)]
        await route.fulfill(json={"items": calls, "nextCursor": None if second else "more"})

    await ruth.context.route("**/api/v1/calls?*", pages)
    page = await ruth.home()
    await page.get_by_role("link", name="Earnings").click()
    await expect(page.get_by_text("None among the newest.")).to_be_visible()
    await page.get_by_role("button", name="Show more").click()
    await expect(page.get_by_text("sol")).to_be_visible()
    await expect(page.get_by_text("None among the newest.")).to_have_count(0)


async def test_calls_that_cannot_be_asked_for_are_not_taken_for_none(server: Server, people: People) -> None:
    uma = await people.come(server, "uma")
    refusal = {"type": "about:blank", "title": "Forbidden", "status": 403, "code": "forbidden", "detail": "Not today."}
    await uma.context.route("**/api/v1/calls?*", lambda route: route.fulfill(status=403, json=refusal))
    page = await uma.home()
    await page.get_by_role("link", name="Earnings").click()
    await expect(page.get_by_role("alert").get_by_text("Not today.")).to_be_visible()
