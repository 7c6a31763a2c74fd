"""Stand-ins for what is not PostgreSQL: the way to the payment provider, presence, limits, video tokens, pushes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import ConnectionError as RedisAway

from realtime.adapters.limiter import Allowance
from realtime.adapters.stripe_gateway import Payment, PaymentStatus, ProviderRefused, ProviderUnavailable
from tests.simulation.provider import payment_of

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.process import Process

LAPSES_AFTER_S = 5.0


class Gateway:
    """One process's way to the provider."""

    def __init__(self, history: History, process: Process) -> None:
        self._history, self._process = history, process

    async def _go(self) -> None:
        await self._history.hop(self._process)
        if self._history.chance(0.03):
            raise ProviderUnavailable("lost on the way")

    async def _return(self) -> None:
        await self._history.hop(self._process)
        if self._history.chance(0.03):
            raise ProviderUnavailable("the answer is lost")

    async def create(self, purchase_id: UUID, _user_id: str, amount_cents: int, payment_method_id: str) -> Payment:
        await self._go()
        if payment_method_id == "unknown":
            raise ProviderRefused("resource_missing", "there is no such payment method", "payment_method")
        provider = self._history.provider
        payment_id = f"pi_{len(provider.intents) + 1}"
        payment = Payment(payment_id, PaymentStatus.REQUIRES_CONFIRMATION, amount_cents, f"{payment_id}_secret")
        provider.made(payment, purchase_id, payment_method_id)
        await self._return()
        return payment

    async def find(self, purchase_id: UUID, _made_after: datetime) -> Payment | None:
        await self._go()
        found = [one.payment for one in self._history.provider.intents.values() if one.purchase_id == purchase_id]
        await self._return()
        return found[0] if found else None

    async def payment(self, payment_id: str) -> Payment:
        await self._go()
        payment = self._history.provider.intents[payment_id].payment
        await self._return()
        return payment

    async def confirm(self, payment_id: str, _purchase_id: UUID) -> Payment:
        await self._go()
        provider = self._history.provider
        one = provider.intents[payment_id]
        if one.payment.status is not PaymentStatus.REQUIRES_CONFIRMATION:
            raise ProviderRefused("payment_intent_unexpected_state", "it was confirmed or cancelled before")
        status, more = {
            "good": (PaymentStatus.SUCCEEDED, {}),
            "declined": (PaymentStatus.REQUIRES_PAYMENT_METHOD, {"decline_code": "generic_decline"}),
            "asks": (PaymentStatus.REQUIRES_ACTION, {}),
            "slow": (PaymentStatus.PROCESSING, {}),
        }[one.card]
        payment = provider.move(payment_id, status, **more)
        await self._return()
        return payment

    async def cancel(self, payment_id: str) -> Payment:
        await self._go()
        provider = self._history.provider
        if provider.intents[payment_id].payment.status in {PaymentStatus.SUCCEEDED, PaymentStatus.PROCESSING}:
            raise ProviderRefused("payment_intent_unexpected_state", "it cannot be cancelled")
        payment = provider.move(payment_id, PaymentStatus.CANCELED)
        await self._return()
        return payment

    async def refund(self, payment_id: str, purchase_id: UUID, amount_cents: int, ordered_at: datetime) -> None:
        await self._go()
        if self._history.chance(0.1):
            raise ProviderRefused("insufficient_funds", "the platform's own balance does not suffice")
        key = f"{purchase_id}:{amount_cents}:{ordered_at.isoformat()}"
        self._history.provider.pay_back(payment_id, amount_cents, key)
        await self._return()

    async def refunded_cents(self, payment_id: str) -> int:
        await self._go()
        cents = self._history.provider.intents[payment_id].refunded_cents
        await self._return()
        return cents

    async def payment_of_charge(self, charge_id: str) -> str | None:
        await self._go()
        await self._return()
        return payment_of(charge_id)


class Presence:
    """Who has a tab, as one process sees it: its own always, others' through a Redis that may be away."""

    def __init__(self, history: History, process: Process) -> None:
        self._history, self._process = history, process
        self.tabs: Counter[str] = Counter()

    async def _ask(self) -> None:
        await self._history.hop(self._process)
        if self._history.chance(0.02):
            raise RedisAway("Redis is away")

    async def arrive(self, user_id: str) -> None:
        self.tabs[user_id] += 1
        await self._ask()

    async def leave(self, user_id: str) -> None:
        self.tabs[user_id] -= 1
        if not self.tabs[user_id]:
            del self.tabs[user_id]
        await self._ask()

    def here(self, user_ids: Iterable[str]) -> set[str]:
        return {user for user in user_ids if user in self.tabs}

    async def online(self, user_ids: Sequence[str]) -> set[str]:
        await self._ask()
        now = self._history.loop.time()
        known = [one for one in self._history.processes if one.alive or now - (one.died_at or 0.0) < LAPSES_AFTER_S]
        return {user for user in user_ids if any(user in one.presence.tabs for one in known)}


class Limiter:
    """Counts nothing: how often somebody may do a thing is not what is tried here. It may be away."""

    def __init__(self, history: History, process: Process) -> None:
        self._history, self._process = history, process

    async def ping(self) -> None:
        await self._history.hop(self._process)
        if self._history.chance(0.02):
            raise RedisAway("Redis is away")

    async def take(
        self, policy: str, _subject: str, limit: int, window_s: int = 60, *, operation: str | None = None
    ) -> Allowance:
        await self.ping()
        return Allowance(True, limit, window_s, limit, 1, policy)


class Issuer:
    app_id = "app"

    def issue(self, channel: str, uid: int, _now: int, expires_at: int) -> str:
        return f"{channel}/{uid}/{expires_at}"


class Out:
    """Holds each push against what was committed: nobody is told what did not happen."""

    def __init__(self, history: History, process: Process) -> None:
        self._history, self._process = history, process

    async def emit_many(self, pushes: Iterable[tuple[str, str, Any]]) -> None:
        for room, event, data in pushes:
            if event in {"balance:update", "earnings:update"}:
                kind = "wallet" if event == "balance:update" else "earnings"
                self._history.books.check_told(room.removeprefix("user:"), kind, data["version"], data["balance"])
        await self._history.hop(self._process)
