"""How much money may move: so many operations a minute for each user, and so many cents a day.

The first limit is Redis's, and without Redis no money moves. The second is exact: it is a row in PostgreSQL that is
changed in the same transactions as the purchases it counts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from realtime.adapters import purchases_store
from realtime.adapters.limiter import Allowance, Limiter
from realtime.domain import errors
from realtime.domain.purchase import Purchase
from realtime.services.pushes import iso

POLICY = "money"
ANSWERS_WITHIN_S = 2.0
"""For all of the client's own tries together."""
UNREACHABLE = (RedisError, OSError, asyncio.TimeoutError)


@dataclass(slots=True)
class Operation:
    """One request that moves money: whose, by which key, and what the limiter said of it, if it was asked."""

    user_id: str
    key: str
    keep_s: int
    allowance: Allowance | None = None


class NothingLeft(Exception):
    """The day's allowance has not that much left: nothing of the transaction may be committed."""


class MoneyLimits:
    def __init__(self, limiter: Limiter, *, per_minute: int, daily_cents: int) -> None:
        self._limiter = limiter
        self._per_minute = per_minute
        self._daily_cents = daily_cents

    async def take(self, user_id: str) -> Allowance:
        """Count one operation of the user. Raises RateLimited, and LimiterUnavailable if Redis cannot be asked."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                allowance = await self._limiter.take(POLICY, user_id, self._per_minute)
        except UNREACHABLE as error:
            raise errors.LimiterUnavailable from error
        if not allowance.allowed:
            raise errors.RateLimited(
                limit=allowance.limit,
                window_s=allowance.window_s,
                retry_after_s=allowance.reset_s,
                policy=allowance.policy,
            )
        return allowance

    async def answers(self) -> None:
        """For routes that are not counted: money does not move without a limiter. Raises LimiterUnavailable."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                await self._limiter.ping()
        except UNREACHABLE as error:
            raise errors.LimiterUnavailable from error

    async def reserve(self, conn: Any, user_id: str, cents: int) -> None:
        """Take `cents` of the allowance for this UTC day, in the caller's transaction. Raises NothingLeft.

        The last thing in it: all who buy for the same user wait for one row until the transaction ends.
        """
        if not await purchases_store.reserve_spend(conn, user_id, cents, self._daily_cents):
            raise NothingLeft

    async def exceeded(self, conn: Any, user_id: str) -> errors.DailyLimitExceeded:
        """The refusal, with what is spent of the allowance and until when."""
        today = await purchases_store.spent_today(conn, user_id)
        return errors.DailyLimitExceeded(
            None, limitCents=self._daily_cents, spentCents=today.spent_cents, resetsAt=iso(today.resets_at)
        )

    @staticmethod
    async def release(conn: Any, purchase: Purchase) -> None:
        """Give the day its allowance back: the purchase failed."""
        await purchases_store.change_spend(conn, purchase.user_id, purchase.spend_day, -purchase.amount_cents)

    @staticmethod
    async def retake(conn: Any, purchase: Purchase) -> None:
        """The money was taken after all: it counts, even beyond the limit."""
        await purchases_store.change_spend(conn, purchase.user_id, purchase.spend_day, purchase.amount_cents)
