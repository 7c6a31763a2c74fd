"""A deploy and its roll-back: two versions side by side, instances restarted one by one, the schema undone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import aiohttp
import psycopg
import pytest
from psycopg import sql

from ledger.verify import verify
from tests.faults.world import METER_WITHIN_S, World
from tests.servers import ROOT, Server, token_of

NEW, OLD = "/api/v1/payments/purchase-tokens", "/api/payments/tokens/purchase"


async def answers(server: Server) -> tuple[int, int]:
    """What the new and the old payment route answer to a request without a card, which charges nobody."""
    headers = {"Authorization": f"Bearer {token_of('buyer')}", "Idempotency-Key": uuid4().hex}
    async with aiohttp.ClientSession(headers=headers) as http:
        statuses = []
        for route in (NEW, OLD):
            async with http.post(server.url + route, json={"amountInCents": 500}) as answer:
                statuses.append(answer.status)
        new, old = statuses
        return new, old


async def test_a_deploy_and_its_roll_back_go_through_calls_in_flight_without_harm(
    world: World, saw: Callable[..., None]
) -> None:
    """Each instance in turn is stopped as a deploy stops it and started with the toggle off, then with it on again."""
    crowd = await world.crowd()
    await crowd.talk()
    slowest_s = 0.0
    for toggle, expected in (("false", (404, 400)), ("true", (400, 400))):
        for instance, other in (world.instances, world.instances[::-1]):
            began = time.monotonic()
            assert await asyncio.to_thread(instance.server.stop) == 0
            await crowd.come_back([other.server])
            slowest_s = max(slowest_s, time.monotonic() - began)
            await world.restart_and_wait(instance, ENABLE_ENHANCED_FEATURES=toggle)
            assert await answers(instance.server) == expected
            if instance is world.instances[0]:  # both versions serve, and serve each other's people
                mixed = await world.crowd(size=4)
                await mixed.talk()
                await world.periods(mixed, 1)
                await world.settle(mixed)
    await world.periods(crowd, 1)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("deploy and roll-back", books, recovery_s=slowest_s, runs=4)


@pytest.fixture
def copy_url(world: World) -> Iterator[str]:
    """An empty database beside the one in use."""
    name = f"copy_{uuid4().hex[:12]}"
    with psycopg.connect(world.postgresql.url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield world.database_url.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(world.postgresql.url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def ledger(database_url: str, *arguments: str) -> str:
    """`python -m ledger …`, as an operator calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_a_backup_taken_under_calls_verifies_and_its_schema_can_be_undone_and_made_again(
    world: World, saw: Callable[..., None], copy_url: str
) -> None:
    crowd = await world.crowd()
    await crowd.talk()
    await world.periods(crowd, 1)
    began = time.monotonic()
    await asyncio.to_thread(world.postgresql.copy, world.database_url, copy_url)
    copied_s = time.monotonic() - began
    assert verify(copy_url).findings == ()
    with psycopg.connect(copy_url) as conn:
        assert conn.execute("SELECT count(*) FROM calls WHERE status = 'active'").fetchone() == (len(crowd.pairs),)

    def undo_and_redo() -> str:
        ledger(copy_url, "migrate", "down")
        with psycopg.connect(copy_url) as conn:
            left = conn.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ 'alembic'"
            ).fetchall()
        assert left == []
        ledger(copy_url, "migrate", "up")
        ledger(copy_url, "verify")
        return ledger(copy_url, "migrate", "status")

    await asyncio.to_thread(undo_and_redo)
    books = await world.settle(crowd)
    assert books.latest_debit_s <= METER_WITHIN_S
    assert books.reasons == {"hangup": len(crowd.pairs)}
    saw("backup, schema down and up on it", books, recovery_s=copied_s)
