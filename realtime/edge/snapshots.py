"""Where a tab's user stands, told to it when it connects and whenever it may have missed something.

What PostgreSQL cannot answer in time is owed: one task asks again for all who wait, some hundreds at once. So a server
whose tabs all come back while its database is away asks the database once a second, not once a second for each tab.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Any

import structlog

from realtime.edge.errors import as_refused
from realtime.services import pushes
from realtime.services.calls import Calls
from realtime.services.wallets import Wallets

log = structlog.get_logger()

WAIT_S = 2.0
"""How long a connection waits for its snapshot before it is made without one."""
RETRY_S = 1.0
TABS_AT_ONCE = 500
"""Tabs whose users are read about in one query each for wallets and calls."""


class Snapshots:
    """The balance and the call that is going on. Tabs are given as the user of each socket id."""

    def __init__(self, sio: Any, wallets: Wallets, calls: Calls) -> None:
        self._sio = sio
        self._wallets = wallets
        self._calls = calls
        self._owed: dict[str, str] = {}
        self._paying: asyncio.Task[None] | None = None

    async def greet(self, sid: str, user_id: str) -> None:
        """Tell a tab that connects; without PostgreSQL it is told as soon as that answers."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._tell({sid: user_id})
        except Exception as error:
            self._owe({sid: user_id}, error)

    async def tell_all(self, tabs: Mapping[str, str]) -> None:
        """Tell tabs that are connected already."""
        left = dict(tabs)
        while left:
            some = dict(islice(left.items(), TABS_AT_ONCE))
            try:
                await self._tell(some)
            except Exception as error:
                self._owe(left, error)
                return
            for sid in some:
                del left[sid]

    def forget(self, sid: str) -> None:
        """The tab is gone."""
        self._owed.pop(sid, None)

    def stop(self) -> None:
        """Nobody is owed anything any more."""
        if self._paying is not None:
            self._paying.cancel()

    async def _tell(self, tabs: Mapping[str, str]) -> None:
        users = list(set(tabs.values()))
        wallets, calls = await self._wallets.wallets_of(users), await self._calls.live_of(users)
        told = {user: pushes.snapshot(wallets[user], calls.get(user)) for user in users}
        for sid, user in tabs.items():
            await self._sio.greet(sid, told[user])

    def _owe(self, tabs: Mapping[str, str], error: Exception) -> None:
        if as_refused(error) is None:
            log.error("a snapshot failed", exc_info=error)
        self._owed.update(tabs)
        if self._paying is None:
            self._paying = asyncio.create_task(self._pay(), name="snapshots owed")

    async def _pay(self) -> None:
        try:
            while self._owed:
                await asyncio.sleep(RETRY_S)
                owed, self._owed = self._owed, {}
                await self.tell_all(owed)
        finally:
            self._paying = None
