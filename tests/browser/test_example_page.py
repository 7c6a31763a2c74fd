"""examples/page.html: a page of somebody else's, on an origin of its own, with no framework."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.browser.browsing import Watch
from tests.browser.conftest import Grant
from tests.servers import JAVASCRIPT, ROOT, Launch, Server

CLIENT = JAVASCRIPT / "node_modules" / "socket.io-client" / "dist" / "socket.io.esm.min.js"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_said: object) -> None: ...


@pytest.fixture
def origin() -> Iterator[str]:
    """Where `python -m http.server -d examples` serves."""
    handler = functools.partial(Quiet, directory=ROOT / "examples")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def open_page(browser: Browser, watch: Watch, origin: str, server: Server, user: str) -> Page:
    page = await browser.new_page()
    watch.follow(page)

    async def of_the_library(route: Route) -> None:
        await route.fulfill(path=CLIENT, content_type="text/javascript", headers={"Access-Control-Allow-Origin": "*"})

    await page.route("https://cdn.socket.io/**", of_the_library)
    await page.goto(f"{origin}/page.html?server={server.url}&user={user}")
    await expect(page.locator("#state")).to_have_text("online")
    return page


async def test_two_people_on_the_frameless_page_have_a_paid_call(
    launch: Launch, browser: Browser, watch: Watch, javascript: None, grant: Grant, origin: str
) -> None:
    server = launch(ALLOWED_ORIGINS=origin)
    await grant(server, "ann", 100)
    ann, ann_too, bob = [await open_page(browser, watch, origin, server, user) for user in ("ann", "ann", "bob")]
    for tab in (ann, ann_too):
        await expect(tab.locator("#balance")).to_have_text("100")
    await ann.get_by_label("Ring").fill("bob")
    await ann.get_by_role("button", name="Ring").click()
    await expect(bob.locator("#state")).to_have_text("ann rings")
    await bob.get_by_role("button", name="Answer").click()
    for tab in (ann, ann_too, bob):
        await expect(tab.locator("#state")).to_have_text("in the call")
    for tab in (ann, ann_too):
        await expect(tab.locator("#balance")).to_have_text("90")
    await ann.get_by_role("button", name="Hang up").click()
    for tab in (ann, bob):
        await expect(tab.locator("#state")).to_have_text("ended: hangup, 10 tokens")
    assert watch.failures == []
