"""A model of PostgreSQL as far as the services lean on it: rows, locks held as long as transactions, and its failures.

A transaction sees what was committed and its own changes. A row it changes it holds; who wants it meanwhile waits, for
`LOCK_TIMEOUT_S` at most, and goes on with the row as it was committed (READ COMMITTED). Two who wait for each other are
a fault of the services, and end the simulation. What each query does is in `queries.py`, by the name the `.sql` files
give it; `test_model.py` holds both against the real thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import asyncpg

LOCK_TIMEOUT_S = 1.5
IDLE_IN_TRANSACTION_S = 3.0

Key = tuple[str, Any]
Row = dict[str, Any]
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class Deadlock(AssertionError):
    """Two transactions wait for each other."""


class Faults(Protocol):
    """Where a statement meets its chances; each may raise, wait for ever, or take its time."""

    async def before(self, link: Connection) -> None: ...

    async def after(self, link: Connection) -> None: ...


class NoFaults:
    async def before(self, link: Connection) -> None: ...

    async def after(self, link: Connection) -> None: ...


class Database:
    def __init__(self, on_commit: Callable[[dict[Key, tuple[Row | None, Row | None]]], None] | None = None) -> None:
        self.rows: dict[str, dict[Any, Row]] = {}
        self._holders: dict[Key, Transaction] = {}
        self._released: dict[Key, asyncio.Event] = {}
        self._on_commit = on_commit
        self._numbers = 0

    def clock(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def held(self) -> bool:
        return bool(self._holders)

    def table(self, name: str) -> dict[Any, Row]:
        return self.rows.setdefault(name, {})

    async def hold(self, tx: Transaction, key: Key, *, skip: bool = False) -> bool:
        """Lock a row, or the place where it would be; with `skip`, False at once if somebody has it."""
        deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT_S
        while (holder := self._holders.get(key)) is not None and holder is not tx:
            if skip:
                return False
            tx.waits_for = holder
            self._refuse_circles(tx)
            event = self._released.setdefault(key, asyncio.Event())
            try:
                async with asyncio.timeout_at(deadline):
                    await event.wait()
            except TimeoutError:
                raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout") from None
            finally:
                tx.waits_for = None
            tx.must_live()
        self._holders[key] = tx
        tx.held.append(key)
        return True

    @staticmethod
    def _refuse_circles(tx: Transaction) -> None:
        other = tx.waits_for
        while other is not None:
            if other is tx:
                raise Deadlock
            other = other.waits_for

    def commit(self, tx: Transaction) -> None:
        changes = {}
        for (name, key), row in tx.changes.items():
            table = self.table(name)
            changes[name, key] = table.get(key), row
            if row is None:
                table.pop(key, None)
            else:
                table[key] = row
        self.release(tx)
        if self._on_commit is not None and changes:
            self._on_commit(changes)

    def release(self, tx: Transaction) -> None:
        tx.over = True
        for key in tx.held:
            if self._holders.get(key) is tx:
                del self._holders[key]
                if (event := self._released.pop(key, None)) is not None:
                    event.set()
        tx.held.clear()


class Transaction:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.began = db.clock()
        self.changes: dict[Key, Row | None] = {}
        self.held: list[Key] = []
        self.waits_for: Transaction | None = None
        self.over = False

    def must_live(self) -> None:
        if self.over:
            raise asyncpg.ConnectionDoesNotExistError("the connection was closed in the middle of an operation")

    def get(self, table: str, key: Any) -> Row | None:
        return self.changes[table, key] if (table, key) in self.changes else self.db.table(table).get(key)

    def rows(self, table: str) -> Iterator[Row]:
        for key, row in self.db.table(table).items():
            if (table, key) not in self.changes:
                yield row
        for (name, _), changed in list(self.changes.items()):
            if name == table and changed is not None:
                yield changed

    def put(self, table: str, key: Any, row: Row | None) -> None:
        self.changes[table, key] = row

    async def hold(self, table: str, key: Any, *, skip: bool = False) -> Row | None:
        """The row, held and as it is now; None if there is none, or with `skip` somebody else has it."""
        return self.get(table, key) if await self.db.hold(self, (table, key), skip=skip) else None


class Connection:
    """What the stores are given for asyncpg's."""

    def __init__(self, db: Database, queries: dict[str, Any], faults: Faults, owner: Any = None) -> None:
        self._db = db
        self._queries = queries
        self._faults = faults
        self.owner = owner
        self.tx: Transaction | None = None
        self.broken = False

    def break_off(self) -> None:
        """The connection is gone; the server rolls back what was open on it."""
        self.broken = True
        if self.tx is not None:
            self._db.release(self.tx)
            self.tx = None

    def must_hold(self) -> None:
        if self.broken:
            raise asyncpg.InterfaceError("connection is closed")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self.must_hold()
        self.tx = tx = Transaction(self._db)
        try:
            yield
        except BaseException:
            self._db.release(tx)
            self.tx = None
            raise
        await self._faults.before(self)
        self.must_hold()
        self._db.commit(tx)
        self.tx = None
        await self._faults.after(self)
        self.must_hold()

    async def fetch(self, query: str, *arguments: Any) -> list[Row]:
        self.must_hold()
        await self._faults.before(self)
        self.must_hold()
        tx = self.tx or Transaction(self._db)
        try:
            answer: list[Row] = await self._queries[query](tx, *arguments)
        except BaseException:
            if tx is not self.tx:
                self._db.release(tx)
            raise
        tx.must_live()
        if tx is not self.tx:
            self._db.commit(tx)
        await self._faults.after(self)
        self.must_hold()
        return answer

    async def fetchrow(self, query: str, *arguments: Any) -> Row | None:
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        row = await self.fetchrow(query, *arguments)
        return next(iter(row.values())) if row else None

    async def execute(self, query: str, *arguments: Any) -> str:
        return f"ROWS {len(await self.fetch(query, *arguments))}"


class Transactions:
    """One process's connections; they are gone with it."""

    def __init__(self, db: Database, queries: dict[str, Any], faults: Faults, owner: Any = None) -> None:
        self._db, self._queries, self._faults, self._owner = db, queries, faults, owner
        self.open: set[Connection] = set()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        link = Connection(self._db, self._queries, self._faults, self._owner)
        self.open.add(link)
        try:
            yield link
        finally:
            link.break_off()
            self.open.discard(link)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Connection]:
        async with self.connection() as link, link.transaction():
            yield link

    def break_off(self) -> None:
        for link in list(self.open):
            link.break_off()
