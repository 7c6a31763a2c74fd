"""Chromium with fake devices, the built page, and people to use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.browsing import People, Watch
from tests.browser.portrait import fake_camera
from tests.payments.conftest import stripe, stripe_url  # noqa: F401  (fixtures)
from tests.servers import ROOT, Server, token_of

# Two cores may be shared by a server, its database and several tabs.
expect.set_options(timeout=15_000)

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


def _cannot(reason: str) -> None:
    """Skip and say so; where the tests must not be skipped, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium: CHROMIUM, the system's, Playwright's own, or one it can download."""
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
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
    """web/dist, built from what is there now."""
    dist = ROOT / "web" / "dist"
    built = subprocess.run([ROOT / "scripts" / "build-web"], check=False, capture_output=True, text=True, timeout=600)
    if "could not be built" in built.stderr:
        pytest.fail(built.stderr)
    if not (dist / "index.html").exists():
        _cannot(f"the page cannot be built: {built.stderr.strip()[-300:]}")
    return dist


@pytest.fixture
async def browser(chromium: str, built_page: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    camera = fake_camera(tmp_path_factory.getbasetemp() / "camera.y4m")
    arguments = [*ARGUMENTS, f"--use-file-for-fake-video-capture={camera}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        await browser.close()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def people(browser: Browser, watch: Watch) -> AsyncIterator[People]:
    yield People(browser, watch)
    assert watch.violations == [], "no page may break its own Content-Security-Policy"
    assert watch.failures == [], "no page may throw or report an error"


Grant = Callable[[Server, str, int], Awaitable[None]]


@pytest.fixture
async def grant(http: aiohttp.ClientSession) -> Grant:
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
