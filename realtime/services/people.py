"""Who can be called now, and for how much."""

from __future__ import annotations

from dataclasses import dataclass

from realtime.adapters import calls_store
from realtime.adapters.presence import Presence
from realtime.services.calls import Transactions


@dataclass(frozen=True, slots=True)
class OnlineUser:
    user_id: str
    rate_tokens_per_period: int
    in_call: bool


class People:
    def __init__(self, *, db: Transactions, presence: Presence, default_rate_tokens_per_period: int) -> None:
        self._db = db
        self._presence = presence
        self._default_rate = default_rate_tokens_per_period

    async def online(self, at_most: int) -> list[OnlineUser]:
        """Some of the users with a tab on any instance, by name; all of them if there are no more than `at_most`."""
        users = await self._presence.some_online(at_most)
        if not users:
            return []
        async with self._db.connection() as conn:
            rates = await calls_store.rates_of(conn, users)
            busy = await calls_store.in_call(conn, users)
        return [OnlineUser(user, rates.get(user, self._default_rate), user in busy) for user in users]
