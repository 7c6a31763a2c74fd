"""Connections and transactions from the pool, for services that say where a transaction begins and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

ACQUIRE_TIMEOUT_S = 5.0


class Database:
    """`waiting` surrounds each wait for a connection of the pool."""

    def __init__(self, pool: Any, waiting: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.pool = pool
        self._waiting = waiting

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for single statements, each its own transaction."""
        with self._waiting():
            conn = await self.pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        try:
            yield conn
        finally:
            await self.pool.release(conn)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        """A transaction that commits when the block ends without an exception."""
        async with self.connection() as conn, conn.transaction():
            yield conn
