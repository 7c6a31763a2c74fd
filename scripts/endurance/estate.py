"""What is soaked: a web process, a worker that meters, PostgreSQL, Redis and a stand-in for Stripe.

All of it is thrown away at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aiohttp
import psycopg

from ledger.database_url import DatabaseUrl
from realtime import embedded
from scripts.benchmarks.harness import postgres
from scripts.benchmarks.harness.redis import redis
from scripts.tabs.children import ROOT

JWT_SECRET = "only-for-the-time-of-a-soak-test"
STARTS_WITHIN_S = 30.0
STOPS_WITHIN_S = 30.0


class NotStarted(Exception):
    """Which process did not, with the last it said."""


@dataclass(frozen=True)
class Estate:
    url: str
    database_url: str
    redis_url: str
    stripe_url: str
    pids: dict[str, int]
    """web, worker, redis, postgresql (the postmaster)."""


@asynccontextmanager
async def estate(period_s: int) -> AsyncIterator[Estate]:
    data = (postgres.DATA / f"soak-{uuid4().hex[:8]}").absolute()
    data.mkdir(parents=True)
    port = _free_port()
    try:
        with (
            postgres.server(None) as server_url,
            postgres.database(server_url) as database_url,
            embedded.stripe(f"http://127.0.0.1:{port}/api/v1/webhooks/stripe", data) as stripe,
        ):
            async with redis() as store:
                environment = os.environ | {
                    "PYTHONPATH": str(ROOT), "PORT": str(port), "DATABASE_URL": database_url, "REDIS_URL": store.url,
                    "JWT_SECRET": JWT_SECRET, "STRIPE_SECRET_KEY": "sk_test_soak", "STRIPE_API_BASE": stripe.url,
                    "STRIPE_WEBHOOK_SECRET": stripe.webhook_secret, "BILLING_PERIOD_SECONDS": str(period_s),
                    "METER_IN_WEB": "0", "LOG_FORMAT": "json", "IDEMPOTENCY_TTL_SECONDS": "60",
                    "MONEY_OPS_PER_MINUTE": "1000000", "DAILY_SPEND_LIMIT_CENTS": "1000000000",
                    "RATE_LIMIT_TRUST_LEVELS": '{"vip": 1000000}',
                }  # fmt: skip
                with (
                    _process("web", data, environment) as web,
                    _process("worker", data, environment) as worker,
                ):
                    await _serves(f"http://127.0.0.1:{port}/ready", web, data / "web.log")
                    postmaster = _postmaster(server_url)
                    pids = {"web": web.pid, "worker": worker.pid, "redis": store.pid, "postgresql": postmaster}
                    yield Estate(f"http://127.0.0.1:{port}", database_url, store.url, stripe.url, pids)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _postmaster(url: str) -> int:
    with psycopg.connect(DatabaseUrl.parse(url).for_psycopg()) as conn:
        [directory] = conn.execute("SHOW data_directory").fetchone() or [""]
    return int((Path(directory) / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def _process(role: str, data: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (data / f"{role}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "realtime", role], cwd=data, env=environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _serves(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise NotStarted(f"the server did not start: {said[-1]}")
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
