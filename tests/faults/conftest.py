"""Fixtures of the fault suite. `FAULT_CALLS=100 FAULT_SECONDS=30 scripts/test tests/faults` is the long run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ledger import migrations
from tests.faults.books import Books
from tests.faults.lines import Lines
from tests.faults.machines import PostgreSQL, Redis
from tests.faults.world import World, make_database
from tests.servers import launching


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests of a process: each leaves it as it may, and the next mends it first."""
    with ExitStack() as stack:
        postgresql, redis, lines = PostgreSQL(), Redis(), Lines()
        stack.callback(postgresql.close)
        stack.callback(redis.close)
        stack.callback(lines.close)
        world = World(postgresql, redis, lines, stack.enter_context(launching("", "", tmp_path_factory.mktemp("logs"))))
        make_database(world, migrations.up)
        for _ in range(2):
            world.add()
        yield world
        postgresql.resume()
        redis.resume()
        for server in world.servers:  # how they stop is tested elsewhere
            server.kill()


@pytest.fixture
async def world(deployment: World) -> World:
    """The deployment, whole."""
    if not deployment.postgresql.running:
        deployment.postgresql.start()
    if not deployment.redis.running:
        deployment.redis.start()
    deployment.postgresql.resume()
    deployment.redis.resume()
    deployment.redis.empty()
    await deployment.whole()
    return deployment


@pytest.fixture
def saw(record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """Put a line into the table: `saw("Redis restarted", books, recovery_s=0.4)`."""

    def note(fault: str, books: Books, *, recovery_s: float, runs: int = 1) -> None:
        row = {"fault": fault, "runs": runs, "calls": books.calls, "recovery_s": recovery_s}
        record_property("fault", row | {"latest_debit_s": books.latest_debit_s, "lost": books.lost_tokens})
        assert books.lost_tokens == 0

    return note
