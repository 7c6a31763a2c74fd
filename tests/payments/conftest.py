"""Fixtures for payments: a localstripe, a server that uses it, and buyers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import pytest

from ledger.database_url import DatabaseUrl
from ledger.verify import verify
from realtime import embedded
from tests.payments.stripe import SECRET, Stripe, event, signed
from tests.servers import PATIENCE_S, ROOT, Launch, Server, eventually, free_port, token_of

NEW = "/api/v1/payments/purchase-tokens"
OLD = "/api/payments/tokens/purchase"


@pytest.fixture(scope="session")
def stripe_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A localstripe for the whole run."""
    port = free_port()
    log = tmp_path_factory.mktemp("stripe") / "stripe.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "realtime.stripe_stand_in", "--port", str(port), "--from-scratch"],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
        )
    deadline = time.monotonic() + 60
    while not embedded.answers_tcp(port):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
async def stripe(stripe_url: str, http: aiohttp.ClientSession) -> Stripe:
    """The localstripe, emptied, sending its events nowhere."""
    stripe = Stripe(stripe_url, http)
    await stripe.ask("DELETE", "/_config/data")
    await stripe.send_events_to("http://127.0.0.1:9/nowhere")
    return stripe


@dataclass(slots=True)
class Answer:
    status: int
    body: Any
    headers: Any


_keys = itertools.count(1)


@dataclass(slots=True)
class Buyer:
    """A user of a server, with money."""

    http: aiohttp.ClientSession
    server: Server
    user: str
    role: str = "user"

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        headers.setdefault("Authorization", f"Bearer {token_of(self.user, role=self.role)}")
        async with self.http.request(
            method, self.server.url + path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        ) as answer:
            is_json = answer.content_type.endswith("json")
            return Answer(answer.status, await answer.json(content_type=None) if is_json else None, answer.headers)

    async def buy(self, card: str, cents: int = 500, key: str | None = None, route: str = NEW) -> Answer:
        body = {"amountInCents": cents, "paymentMethodId": card}
        return await self.ask("POST", route, body, Idempotency_Key=key or f"key-{next(_keys)}")

    async def balance(self) -> int:
        return int((await self.ask("GET", "/api/v1/balance")).body["balance"])

    async def has(self, tokens: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the wallet holds so much."""

        async def it_does() -> bool:
            return await self.balance() == tokens

        await eventually(it_does, timeout_s)

    async def purchase(self, purchase_id: str) -> Any:
        return (await self.ask("GET", f"/api/v1/payments/purchases/{purchase_id}")).body


LaunchPaying = Callable[..., Buyer]


@pytest.fixture
def launch_paying(http: aiohttp.ClientSession, launch: Launch, stripe: Stripe) -> LaunchPaying:
    """Start a server with settings of its own; answers its buyer."""
    return lambda **settings: Buyer(http, launch(**(stripe.settings | settings)), "ann")


@pytest.fixture
def server(launch: Launch, stripe: Stripe) -> Server:
    return launch(**stripe.settings)


@pytest.fixture
def buyer(http: aiohttp.ClientSession, server: Server) -> Buyer:
    return Buyer(http, server, "ann")


@pytest.fixture
def admin(http: aiohttp.ClientSession, server: Server) -> Buyer:
    return Buyer(http, server, "root", role="admin")


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    conn = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())
    yield Ledger(conn, database_url)
    await conn.close()


@dataclass(slots=True)
class Ledger:
    """What the database says."""

    conn: Any
    url: str

    async def balance(self, kind: str, owner: str | None = None) -> int:
        found = await self.conn.fetchval(
            "SELECT balance FROM accounts WHERE kind = $1 AND owner_id IS NOT DISTINCT FROM $2", kind, owner
        )
        return found or 0

    async def journals(self, kind: str) -> int:
        return int(
            await self.conn.fetchval("SELECT count(*) FROM journals WHERE type = $1::text::transaction_type", kind)
        )

    async def audited(self, action: str) -> int:
        return int(await self.conn.fetchval("SELECT count(*) FROM financial_audit_log WHERE action = $1", action))

    def prove(self) -> None:
        """Every invariant of the ledger holds."""
        assert verify(self.url).findings == ()


async def send(
    server: Server, http: aiohttp.ClientSession, body: bytes, secret: str = SECRET, **headers: str
) -> Answer:
    """Send an event to our webhook."""
    async with http.post(
        f"{server.url}/api/v1/webhooks/stripe", data=body, headers=headers or signed(body, secret)
    ) as answer:
        return Answer(answer.status, await answer.json(content_type=None), answer.headers)


__all__ = ["Answer", "Buyer", "Ledger", "event", "send"]
