"""Chromium with fake devices, the built page, a server, and people to use it.

One browser and one server (`server`, with a localstripe behind it) carry all tests of a process, in one event loop.
What keeps tests apart is that each has browser contexts and people of its own. A test that kills its server, or needs
other settings or counts of its own, starts one (`launch`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from realtime import embedded
from tests.browser.browsing import People, Watch
from tests.browser.portrait import fake_camera
from tests.conftest import new_database
from tests.payments.conftest import stripe_url  # noqa: F401  (a fixture)
from tests.payments.stripe import Stripe
from tests.servers import ROOT, Server, launching, token_of

# Two cores may be shared by a server, its database and several tabs.
expect.set_options(timeout=30_000)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]


QUICK = {"BILLING_PERIOD_SECONDS": 2, "CALL_GRACE_SECONDS": 120}
"""Periods short enough to see several of them, and a grace that a machine with other things to do stays within."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser belongs to the event loop that started it: here all tests run in one."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("asyncio"):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def _cannot(reason: str) -> None:
    """Skip and say so; where the tests must not be skipped, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium: CHROMIUM, the system's, Playwright's own, or one it can download."""
    system = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    for name in (os.environ.get("CHROMIUM"), *system):
        if name and (found := shutil.which(name)):
            return found
    if own := _playwrights_own():
        return own
    installed = subprocess.run(
        [sys.executable, "-m", "playwright", "install", "chromium"],
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if own := _playwrights_own():
        return own
    _cannot(f"no Chromium is here and none can be installed: {installed.stderr.strip()[-300:]}")
    raise AssertionError("not reached")


def _playwrights_own() -> str | None:
    browsers = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return next((str(path) for path in sorted(browsers.glob("chromium-*/chrome-linux*/chrome"), reverse=True)), None)


@pytest.fixture(scope="session")
def built_page() -> Path:
    """web/dist, built from what is there now, and what the page's own checks need."""
    dist = ROOT / "web" / "dist"
    command = [ROOT / "scripts" / "build-web", "dev"]
    built = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if "npm is not installed" not in built.stderr and "could not be built" in built.stderr:
        pytest.fail(built.stderr)
    if not (dist / "index.html").exists():
        _cannot(f"the page cannot be built: {built.stderr.strip()[-300:]}")
    return dist


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str, built_page: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    camera = fake_camera(tmp_path_factory.getbasetemp() / "camera.y4m")
    arguments = [*ARGUMENTS, f"--use-file-for-fake-video-capture={camera}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="session")
def server(
    built_page: Path,
    postgres_server_url: str,
    template_database: str,
    stripe_url: str,  # noqa: F811  (the fixture)
    http: aiohttp.ClientSession,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The server that tests share: short periods, and the localstripe for cards."""
    directory = tmp_path_factory.mktemp("server")
    database = contextlib.contextmanager(new_database)(postgres_server_url, template_database)
    with contextlib.ExitStack() as stack:
        database_url, redis_url = stack.enter_context(database), stack.enter_context(embedded.redis(directory))
        launch = stack.enter_context(launching(database_url, redis_url, directory))
        yield launch(**QUICK, **Stripe(stripe_url, http).settings)


@pytest_asyncio.fixture(loop_scope="session")
async def stripe(stripe_url: str, http: aiohttp.ClientSession, server: Server) -> Stripe:  # noqa: F811  (the fixture)
    """The localstripe, emptied, sending its events to the shared server."""
    stripe = Stripe(stripe_url, http)
    await stripe.ask("DELETE", "/_config/data")
    await stripe.send_events_to(f"{server.url}/api/v1/webhooks/stripe")
    return stripe


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="session")
def known() -> dict[tuple[Server, str], str]:
    """Who was at which server, and in which test."""
    return {}


@pytest_asyncio.fixture(loop_scope="session")
async def people(
    browser: Browser, watch: Watch, known: dict[tuple[Server, str], str], request: pytest.FixtureRequest
) -> AsyncIterator[People]:
    people = People(browser, watch, known, request.node.nodeid)
    yield people
    await people.leave()
    assert watch.violations == [], "no page may break its own Content-Security-Policy"
    assert watch.failures == [], "no page may throw or report an error"


Grant = Callable[[Server, str, int], Awaitable[None]]


@pytest.fixture
def grant(http: aiohttp.ClientSession) -> Grant:
    """Give somebody tokens, as an operator does."""

    async def give(server: Server, user: str, tokens: int) -> None:
        answer = await http.post(
            f"{server.url}/api/v1/admin/grants",
            json={"userId": user, "tokens": tokens, "reason": "welcome"},
            headers={
                "Authorization": f"Bearer {token_of('root', role='admin')}",
                "Idempotency-Key": os.urandom(8).hex(),
            },
        )
        assert answer.status == 200, await answer.text()

    return give
