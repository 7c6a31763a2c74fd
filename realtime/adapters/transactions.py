"""Connections and transactions from the pool, for services that say where a transaction begins and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

ACQUIRE_TIMEOUT_S = 5.0


class Database:
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for single statements, each its own transaction."""
        async with self.pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn:
            yield conn

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        """A transaction that commits when the block ends without an exception."""
        async with self.pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn, conn.transaction():
            yield conn
