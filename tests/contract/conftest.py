"""Fixtures of the contract's tests; `service.py` says how they work together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from realtime import embedded
from tests.conftest import new_database
from tests.contract.service import Browser, Pair, Pairs, Serve, Service, someone
from tests.servers import PATIENCE_S, Opens, Server, eventually, launching


@pytest.fixture(scope="session")
def serve(postgres_server_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """`with serve(instances=2, SETTING=…) as service:` runs that many servers that share everything."""

    @contextlib.contextmanager
    def serving(instances: int = 1, **settings: Any) -> Iterator[Service]:
        directory = tmp_path_factory.mktemp("service")
        with contextlib.ExitStack() as stack:
            database_url = stack.enter_context(
                contextlib.contextmanager(new_database)(postgres_server_url, template_database)
            )
            redis_url = stack.enter_context(embedded.redis(directory))
            start = stack.enter_context(launching(database_url, redis_url, directory))
            servers = [start(wait=False, **settings) for _ in range(instances)]
            for server in servers:
                server.wait_for('"event": "serving"')
            yield Service(servers, database_url, redis_url, start)
            for server in servers:  # the tests of stopping are elsewhere; here it only takes time
                server.kill()

    return serving


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * PATIENCE_S)) as session:
        yield Browser(session)


@pytest.fixture
async def pair(open_tab: Opens, browser: Browser) -> Pairs:
    """Two people who can talk: `await pair(service, tokens=100)`."""

    async def make(service: Service, tokens: int = 1000, on: Server | None = None) -> Pair:
        caller, callee = someone("caller"), someone("callee")
        if tokens:
            await browser.grant(service, caller, tokens)
        made = Pair(await open_tab(service.server, caller), await open_tab(on or service.server, callee))
        await eventually(lambda: made.caller.told("balance:update") and made.callee.told("balance:update"))
        return made

    return make
