"""The Content-Security-Policy: what the page itself may do, and what an injected script may not."""

from __future__ import annotations

import aiohttp
from playwright.async_api import expect

from tests.browser.browsing import People, Watch
from tests.servers import Server, eventually


async def test_no_page_breaks_the_policy_and_none_is_reported(
    server: Server, people: People, watch: Watch, http: aiohttp.ClientSession
) -> None:
    reported = await _reported(http, server)
    pia = await people.come(server, "pia", role="admin")
    for path, heading in (("/", "People"), ("/history", "History"), ("/earnings", "Earnings"), ("/ops", "Operations")):
        page = await pia.tab(path)
        await expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible()
        await page.wait_for_load_state("load")
        enforced = await page.evaluate("fetch(location.href).then(it => it.headers.get('content-security-policy'))")
        assert "'unsafe-inline'" not in enforced
        assert "'unsafe-eval'" not in enforced
    assert watch.violations == []
    assert await _reported(http, server) == reported


async def test_an_injected_script_does_not_run_and_is_reported(
    server: Server, people: People, watch: Watch, http: aiohttp.ClientSession
) -> None:
    reported = await _reported(http, server)
    page = await (await people.come(server, "fay")).home()
    await page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.stolen = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.stolen = true'>");
        }"""
    )
    await eventually(lambda: len(watch.violations) >= 2)
    assert await page.evaluate("window.stolen") is None
    await eventually(lambda: _more_reported(http, server, reported + 2))
    watch.violations.clear()


async def _more_reported(http: aiohttp.ClientSession, server: Server, at_least: float) -> bool:
    return await _reported(http, server) >= at_least


async def _reported(http: aiohttp.ClientSession, server: Server) -> float:
    """How many violations browsers have reported to the server."""
    async with http.get(f"{server.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("callmeter_csp_reports_total"))
