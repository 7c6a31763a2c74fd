"""The connection pool: settings every connection of ours has, and the errors that mean "not now"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from ledger.database_url import DatabaseUrl

UNREACHABLE = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What a caller meets when PostgreSQL is away, restarting, full, slower than `COMMAND_TIMEOUT_S`, or read-only: the
former primary of a failover, or a managed one whose disk is full."""

STATEMENT_REFUSED = (asyncpg.PostgresError,)
"""What PostgreSQL has against a statement itself, where it is none of `UNREACHABLE`."""

ROW_HELD = (asyncpg.LockNotAvailableError,)
"""Of `UNREACHABLE`, what says nothing of the server: somebody holds a row that the statement needs."""

COMMAND_TIMEOUT_S = 10.0


async def _prepare(conn: Any) -> None:
    for name in ("json", "jsonb"):
        await conn.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def _keep(_conn: Any) -> None:
    """What asyncpg would send to reset a connection that comes back costs a round trip each time.

    Ours have nothing to reset: all settings are given when they connect, and asyncpg rolls an open transaction back
    before this.
    """


Prepare = Callable[[Any], Awaitable[None]]


async def open_pool(url: str, *, max_size: int, init: Prepare | None = None) -> Any:
    """A pool whose transactions cannot hold locks while their client is gone; `init` sees each new connection.

    `idle_in_transaction_session_timeout` ends a transaction whose process hangs between two statements, and the TCP
    settings notice a host that vanished, so that a call's row is free for another meter within seconds. Waits for a
    lock end sooner than that: of a hung process's transactions those that queue behind the first have given up when it
    is ended, or each in turn would hold what all need (the platform's account) for as long again.
    """

    async def prepare(conn: Any) -> None:
        await _prepare(conn)
        if init is not None:
            await init(conn)

    database = DatabaseUrl.parse(url).for_asyncpg()
    return await asyncpg.create_pool(
        database["dsn"],
        min_size=1,
        max_size=max_size,
        command_timeout=COMMAND_TIMEOUT_S,
        timeout=5.0,
        init=prepare,
        reset=_keep,
        server_settings=database["server_settings"]
        | {
            "application_name": "callmeter",
            "idle_in_transaction_session_timeout": "3000",
            "lock_timeout": "1500",
            "statement_timeout": "9000",
            "tcp_keepalives_idle": "2",
            "tcp_keepalives_interval": "1",
            "tcp_keepalives_count": "2",
            "jit": "off",
        },
    )
