"""Development without an account at Stripe: a stand-in is started, said, used by everything, and stopped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from realtime import embedded
from tests.payments.conftest import Buyer
from tests.payments.stripe import AUTHENTICATED_CARD, CARD, Stripe
from tests.servers import ROOT, Server, environment


@pytest.fixture
def server(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Server]:
    env = environment(database_url, redis_url, {"STRIPE_SECRET_KEY": "", "STRIPE_API_BASE": ""})
    server = Server(["-m", "realtime"], env, tmp_path / "web.log", cwd=tmp_path)
    try:
        server.wait_for('"event": "serving"')
        yield server
    finally:
        server.stop()


async def made_of(buyer: Buyer, number: str) -> str:
    card = {"number": number, "expMonth": 12, "expYear": 2030, "cvc": "123"}
    answer = await buyer.ask("POST", "/dev/payment-methods", card)
    assert answer.status == 200, answer.body
    return str(answer.body["id"])


async def test_without_a_key_of_stripes_a_stand_in_takes_payments_and_says_so(
    server: Server, http: aiohttp.ClientSession, database_url: str, tmp_path: Path
) -> None:
    assert "a stand-in for Stripe takes payments, no money moves" in server.log.read_text()
    buyer = Buyer(http, server, "ann")
    config = (await buyer.ask("GET", "/bff/session")).body["config"]
    stand_in = Stripe(config["stripeApiBase"], http)

    assert (await buyer.buy(await made_of(buyer, CARD), 500)).status == 200
    asked = await buyer.buy(await made_of(buyer, AUTHENTICATED_CARD), 700)
    assert asked.status == 202
    await stand_in.authenticate(asked.body["clientSecret"])

    await buyer.has(1200)  # by the stand-in's event, which carries a signature of its own

    reconciling = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ledger", "reconcile", "stripe"],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert reconciling.stdout == "ok: 2 payments, 0 in flight; Stripe holds 1200 cents, the ledger 1200\n"

    port = urlsplit(stand_in.url).port
    assert port
    assert server.stop() == 0
    assert not embedded.answers_tcp(port)
