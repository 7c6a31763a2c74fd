"""The contract's idempotency rules, for every route that moves money: one request with a key takes effect once.

A key's record is in PostgreSQL. Whoever makes it holds it for a few seconds at a time while they work, and keeps the
answer in the transaction that makes it true. A holder that died lets go by itself: the same request again takes over
and goes on from where the work stands (`Claim.subject`), unless a job has finished it by then.

Kept: the answer, refusals by the card included, for the key's lifetime. Not kept: a malformed request, a request while
the first is running, and a refusal before anything happened (limits, a provider that is away): then the key is free.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import structlog

from realtime.adapters import idempotency_store
from realtime.adapters.logs import in_words
from realtime.domain import errors
from realtime.services.calls import Transactions

log = structlog.get_logger()

HOLD_S = 6.0
"""How long a record stays held after its holder's last sign of life."""
HOLD_AGAIN_AFTER_S = 2.0

Outcome = dict[str, Any]
"""What was answered: the body of a success, or `{"refused": code, "message": …, "details": {…}}`."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request with its key. `payload` and `operation` are what must be the same when the key comes again."""

    user_id: str
    key: str
    operation: str
    payload: Mapping[str, Any]
    keep_s: int

    @property
    def request_hash(self) -> bytes:
        text = json.dumps([self.operation, self.payload], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry a request out; `subject` is what an earlier holder had begun."""

    request: Keyed
    holder: UUID
    subject: UUID | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer to a request, kept now or before."""

    outcome: Outcome
    replayed: bool


class LostHold(Exception):
    """Somebody took this request over while we were out of breath: nothing of ours may be committed."""


def derived_key(user_id: str, operation: str, payload: Mapping[str, Any]) -> str:
    """A key for a client that sends none: the same request of the same user has the same one.

    It begins with a space, which no header's value does: nobody can send it.
    """
    return " derived:" + Keyed(user_id, "", operation, payload, 0).request_hash.hex()


def refusal(refused: errors.Refused) -> Outcome:
    return {"refused": refused.code, "message": refused.message, "details": refused.details}


class Idempotency:
    def __init__(self, db: Transactions) -> None:
        self._db = db

    async def once(self, request: Keyed, work: Callable[[Claim], Awaitable[Outcome]]) -> Kept:
        """Answer the request: as before if it was answered, else by `work`, which keeps its answer itself.

        Raises IdempotencyKeyReused, IdempotencyInProgress, and whatever `work` raises. A refusal that `work` raises
        means that nothing happened, and frees the key. After any other error nobody knows, so the key stays taken, and
        whoever comes next goes on from the subject.
        """
        claim = await self._claim(request)
        if isinstance(claim, Kept):
            return claim
        async with self._holding(claim):
            try:
                outcome = await work(claim)
            except errors.Refused:
                await self._release(claim)
                raise
            except LostHold:
                raise errors.IdempotencyInProgress from None
        return Kept(outcome, replayed=False)

    async def keep(self, conn: Any, claim: Claim, outcome: Outcome) -> None:
        """Keep the answer in the transaction that makes it true. Raises LostHold if that must not commit."""
        request = claim.request
        if not await idempotency_store.finish(conn, request.user_id, request.key, claim.holder, outcome):
            raise LostHold

    async def _claim(self, request: Keyed) -> Claim | Kept:
        holder = uuid4()
        for _ in range(10):  # each turn another's claim or end came between two of our statements
            async with self._db.connection() as conn:
                if await idempotency_store.claim(
                    conn, request.user_id, request.key, request.request_hash, holder, HOLD_S, request.keep_s
                ):
                    return Claim(request, holder)
                record = await idempotency_store.record(conn, request.user_id, request.key)
                if record is None:
                    continue
                if record.request_hash != request.request_hash:
                    raise errors.IdempotencyKeyReused
                if record.outcome is not None:
                    return Kept(record.outcome, replayed=True)
                if record.held:
                    raise errors.IdempotencyInProgress
                ours, subject = await idempotency_store.take_over(conn, request.user_id, request.key, holder, HOLD_S)
                if ours:
                    return Claim(request, holder, subject)
        raise errors.IdempotencyInProgress

    @asynccontextmanager
    async def _holding(self, claim: Claim) -> AsyncIterator[None]:
        holding = asyncio.create_task(self._hold(claim))
        try:
            yield
        finally:
            holding.cancel()
            with suppress(asyncio.CancelledError):
                await holding

    async def _hold(self, claim: Claim) -> None:
        """Push the record's hold on while the work takes its time. What is lost here, another may take over: safely."""
        request = claim.request
        while True:
            await asyncio.sleep(HOLD_AGAIN_AFTER_S)
            try:
                async with self._db.connection() as conn:
                    await idempotency_store.hold(conn, request.user_id, request.key, claim.holder, HOLD_S)
            except Exception as error:
                log.warning("an idempotency key could not be held", error=in_words(error))

    async def _release(self, claim: Claim) -> None:
        try:
            async with self._db.connection() as conn:
                await idempotency_store.forget(conn, claim.request.user_id, claim.request.key, claim.holder)
        except Exception as error:
            log.warning("an idempotency key is free only when its hold runs out", error=in_words(error))
