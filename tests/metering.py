"""For tests of the meter: calls straight in the database, a clock that tests set, and meters to run and to kill."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

import asyncpg

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, Leg, Outcome, TransactionType
from realtime.adapters.agora_tokens import TokenIssuer
from realtime.adapters.identifiers import new_id
from realtime.adapters.postgres import open_pool
from realtime.adapters.transactions import Database
from realtime.services.calls import Calls
from realtime.services.metering import Meter
from tests.servers import AGORA_APP_CERTIFICATE, AGORA_APP_ID

ISSUER = TokenIssuer(AGORA_APP_ID, AGORA_APP_CERTIFICATE, "007")


class Heard:
    """Takes pushes and keeps them."""

    def __init__(self) -> None:
        self.pushes: list[tuple[str, str, Any]] = []

    async def emit_many(self, pushes: Iterable[tuple[str, str, Any]]) -> None:
        self.pushes.extend(pushes)

    def told(self, room: str, event: str) -> list[Any]:
        return [data for where, name, data in self.pushes if (where, name) == (room, event)]


def a_meter(db: Database, out: Any, calls: Any = None) -> Meter:
    return Meter(db=db, calls=calls, issuer=ISSUER, out=out, put_out=None)


async def set_clock(conn: Any, at: datetime) -> None:
    """From now on `meter_now()` is `at`, for every process on this database."""
    await conn.execute("CREATE TABLE IF NOT EXISTS test_clock (at timestamptz NOT NULL)")
    await conn.execute("DELETE FROM test_clock")
    await conn.execute("INSERT INTO test_clock VALUES ($1)", at)
    await conn.execute(
        "CREATE OR REPLACE FUNCTION meter_now() RETURNS timestamptz"
        " LANGUAGE sql VOLATILE AS 'SELECT at FROM test_clock'"
    )


@contextlib.asynccontextmanager
async def meter_clock(database_url: str) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """`await move(60)`: from then on `meter_now()` runs a minute ahead, for every process on this database."""
    conn = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())

    async def move(ahead_s: int) -> None:
        await conn.execute(
            "CREATE OR REPLACE FUNCTION meter_now() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS 'SELECT clock_timestamp() + {ahead_s} * interval ''1 second'''"
        )

    yield move
    await conn.close()


async def grant(conn: Any, user: str, tokens: int, key: str = "start") -> None:
    """Give the user tokens; negative ones take them back."""
    [wallet_id] = await store.ensure_accounts(conn, [(user, "wallet")])
    granted_id = await store.platform_account(conn, "granted_tokens")
    journal = Journal(
        key=f"test:{user}:{key}",
        type=TransactionType.GRANT if tokens > 0 else TransactionType.ADJUSTMENT,
        legs=(Leg(granted_id, tokens), Leg(wallet_id, -tokens)),
    )
    [posting] = await store.post(conn, [journal], actor="test")
    assert posting.outcome is Outcome.POSTED


async def active_calls(
    conn: Any, count: int, *, started_at: datetime, tokens: int, rate: int = 10, period_s: int = 60, grace_s: int = 10
) -> list[Any]:
    """`count` answered calls that nothing has been billed for yet, each caller with `tokens` in the wallet."""
    ids = []
    async with conn.transaction():
        for number in range(count):
            caller, callee, call_id = f"caller-{number}", f"callee-{number}", new_id()
            await grant(conn, caller, tokens)
            wallet_id, earnings_id = await store.ensure_accounts(conn, [(caller, "wallet"), (callee, "earnings")])
            await conn.execute(
                """INSERT INTO calls (id, caller_id, callee_id, request_id, status, rate_tokens_per_period,
                    fee_tokens_per_period, fee_percent, period_seconds, grace_seconds, refund_unused_seconds,
                    caller_wallet_id, callee_earnings_id, created_at, ring_expires_at, started_at, paid_through)
                VALUES ($1, $2, $3, 'r', 'active', $4::bigint, $4::bigint / 5,
                    20, $5, $6, false, $7, $8, $9, $9, $9, $9)""",
                call_id, caller, callee, rate, period_s, grace_s, wallet_id, earnings_id, started_at,
            )  # fmt: skip
            await conn.execute("INSERT INTO live_parties VALUES ($1, $3), ($2, $3)", caller, callee, call_id)
            ids.append(call_id)
    return ids


async def run_meter(database_url: str) -> None:
    """A meter and nothing else, for processes that get killed."""
    pool = await open_pool(database_url, max_size=2)

    class NoCalls(Calls):
        def __init__(self) -> None:
            pass

    meter = a_meter(Database(pool), Heard(), NoCalls())
    print("metering", flush=True)
    await meter.run()


if __name__ == "__main__":
    asyncio.run(run_meter(sys.argv[1]))
