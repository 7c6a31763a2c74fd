"""People at their browsers: each has a context of their own, signed in by cookie, its pages watched for faults."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, expect

from tests.servers import Server, token_of

HERE = Path(__file__).parent
AGORA_CHUNK = "**/assets/agoraSdk-*.js"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}


NETWORK = ("Failed to load resource", "net::ERR_", "WebSocket connection to")
"""What Chromium reports of a request that failed: the page's own words on it are what a test looks at."""


@dataclass
class Watch:
    """What pages said went wrong: violations of their policy, and errors that are no mere failed request."""

    violations: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.failures.append(f"uncaught: {error}"))

    def _console(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.violations.append(message.text)
        elif message.type == "error" and not any(part in message.text for part in NETWORK):
            self.failures.append(message.text)


@dataclass
class Person:
    """Somebody's browser: cookies and storage of their own, shared by their tabs."""

    name: str
    server: Server
    context: BrowserContext
    agora_requests: list[Request]

    async def tab(self, path: str = "/") -> Page:
        page = await self.context.new_page()
        await page.goto(self.server.url + path)
        return page

    async def home(self) -> Page:
        page = await self.tab()
        await expect(page.get_by_role("heading", name="People")).to_be_visible()
        return page


class People:
    """The people of one test, at browsers of their own.

    Servers are shared, so `known` keeps who was met where: a name belongs to the test that first used it.
    """

    def __init__(self, browser: Browser, watch: Watch, known: dict[tuple[Server, str], str], test: str) -> None:
        self._browser = browser
        self._watch = watch
        self._known = known
        self._test = test
        self._contexts: list[BrowserContext] = []

    async def stranger(self, server: Server, *, name: str = "nobody", agora: bool = True, **options: Any) -> Person:
        """A browser that nobody has signed in with. Without `agora` the video service can't be reached."""
        settings = {**DESKTOP, "reduced_motion": "reduce", "permissions": ["camera", "microphone"], **options}
        context = await self._browser.new_context(**settings)
        self._contexts.append(context)
        context.on("page", self._watch.follow)
        requests: list[Request] = []

        async def chunk(route: Route) -> None:
            requests.append(route.request)
            if agora:
                await route.fulfill(path=HERE / "agora_stand_in.js", content_type="text/javascript")
            else:
                await route.abort()

        await context.route(AGORA_CHUNK, chunk)
        return Person(name, server, context, requests)

    async def come(self, server: Server, name: str, *, role: str = "user", **options: Any) -> Person:
        """Somebody signed in, as an app's own page would do it: by trading their token for the cookie."""
        whose = self._known.setdefault((server, name), self._test)
        assert whose == self._test, f"{name} is met in {whose}: this server is shared, and each test has its own people"
        person = await self.stranger(server, name=name, **options)
        answer = await person.context.request.post(
            f"{server.url}/bff/session", headers={"Authorization": f"Bearer {token_of(name, role=role)}"}
        )
        assert answer.ok, await answer.text()
        return person

    async def leave(self) -> None:
        for context in self._contexts:
            await context.close()


async def said_to_agora(page: Page, what: str | None = None) -> list[list[Any]]:
    """What the page asked of the video service so far, all of it or one kind."""
    said: list[list[Any]] = await page.evaluate("window.agora ?? []")
    return [entry for entry in said if what in {None, entry[0]}]


SEVERAL_PERIODS = re.compile(r"^([2-9]0|\d{3,})$")
"""What two periods or more of a call cost at 10 tokens each: how many there were is gone by the time one looks."""


async def in_a_call(caller: Page, callee: Page, callee_name: str) -> None:
    """Ring, answer, and wait until both are in.

    Where the callee has come first, the caller's list has them at once and not with its next look, seconds later.
    """
    await caller.get_by_role("button", name=f"Call {callee_name}").click()
    await callee.get_by_role("button", name="Answer").click()
    for page in (caller, callee):
        await expect(page.get_by_role("button", name="End")).to_be_visible()


Come = Callable[..., Awaitable[Person]]
