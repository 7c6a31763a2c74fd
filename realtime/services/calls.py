"""Calls: load, decide, save, tell.

Every event reads the call, brings its billing and deadlines up to the database's time, and is decided on what was read.
Each step is carried out by one statement, which does nothing if the call has moved on meanwhile: then the event is
decided anew. No lock outlives a statement, so nobody who pays waits for another's network. Whatever a step has done
is told, also if a later one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import structlog

from ledger import store
from realtime.adapters import calls_store
from realtime.adapters.calls_store import Billed, Ended, PutOutJob
from realtime.adapters.identifiers import new_id
from realtime.adapters.limiter import Limiter
from realtime.adapters.presence import Presence
from realtime.config import BillingRounding, Settings
from realtime.domain import errors, pricing
from realtime.domain.call import Call, Decision, Effect, Role, Terms, decide, end_event_for, settlement
from realtime.domain.transitions import Event, Status
from realtime.domain.trust import Identity
from realtime.services import pushes
from realtime.services.pushes import Push, Pushes, TokenIssuer

log = structlog.get_logger()


class Transactions(Protocol):
    def begin(self) -> AbstractAsyncContextManager[Any]:
        """A connection inside a transaction that commits when the block ends without an exception."""

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """A connection for single statements."""


class BillingObserver(Protocol):
    """What is counted of billing."""

    def billed(self, outcome: str) -> None:
        """A period that was due was come to, with this outcome."""

    def meter_batch(self, *, size: int, seconds: float, lag_s: float) -> None:
        """The meter came to `size` calls at once, the longest due of them for `lag_s`."""

    def meter_failed(self) -> None:
        """A round of the meter did not come to its end."""


class Unobserved:
    def billed(self, outcome: str) -> None: ...

    def meter_batch(self, *, size: int, seconds: float, lag_s: float) -> None: ...

    def meter_failed(self) -> None: ...


@dataclass(slots=True)
class Answered:
    """A call, and one side's way into its channel."""

    call: Call
    agora: dict[str, Any]


DECISIONS = 20
"""How often an event is decided anew because the call had moved on, before it is given up."""


class Calls:
    def __init__(
        self,
        *,
        db: Transactions,
        presence: Presence,
        limiter: Limiter,
        issuer: TokenIssuer,
        out: Pushes,
        put_out: PutOutJob | None,
        settings: Settings,
        observer: BillingObserver | None = None,
    ) -> None:
        self._observer = observer or Unobserved()
        self._db = db
        self._presence = presence
        self._limiter = limiter
        self._issuer = issuer
        self._out = out
        self._put_out = put_out
        self._settings = settings

    # -- commands ------------------------------------------------------------------------------------------------

    async def start(self, caller: Identity, callee_id: str, request_id: str) -> Call:
        """Ring the callee. The same request again is answered with the call it made."""
        if callee_id == caller.user_id:
            raise errors.SelfCall
        async with self._db.connection() as conn:
            if existing := await calls_store.of_request(conn, caller.user_id, request_id):
                return existing
        await self._allow_start(caller, f"{callee_id}:{request_id}")
        if not await self._presence.online([callee_id]):
            raise errors.CalleeUnavailable
        call, made = await self._make(caller.user_id, callee_id, request_id)
        if made:
            log.info("call ringing", call_id=str(call.id), caller=call.caller_id, callee=call.callee_id)
            await self._out.emit_many(pushes.incoming(call))
        return call

    async def accept(self, user_id: str, call_id: UUID, socket_id: str) -> Answered:
        """Answer a ringing call. The first tab wins; that tab's retry is answered, and everybody told, again."""
        retried = False

        def event(call: Call) -> Event | None:
            nonlocal retried
            if call.role_of(user_id) is not Role.CALLEE:
                raise errors.NotFound("there is no such call to answer")
            retried = call.status is Status.ACTIVE and call.answered_by == socket_id
            return None if retried else Event.ACCEPTED

        call, now = await self._happen(call_id, event, answered_by=socket_id)
        if retried:  # PostgreSQL may have been lost between our commit and its answer, and then nobody was told
            await self._out.emit_many(pushes.accepted(call))
        return self._answer(call, Role.CALLEE, now)

    async def join(self, user_id: str, call_id: UUID) -> Answered:
        """Come into an answered call: the caller's tab, a reloaded one, or another tab taking over."""
        call, now = await self._happen(call_id, lambda call: self._only_party(call, user_id))
        self._must_be_active(call)
        return self._answer(call, call.role_of(user_id), now)

    async def renew(self, user_id: str, call_id: UUID) -> dict[str, Any]:
        """A fresh token for what is paid, for a tab that missed the pushed one."""
        return (await self.join(user_id, call_id)).agora

    async def decline(self, user_id: str, call_id: UUID) -> Call:
        return await self._end(user_id, call_id, Role.CALLEE, Event.DECLINED)

    async def cancel(self, user_id: str, call_id: UUID) -> Call:
        return await self._end(user_id, call_id, Role.CALLER, Event.CANCELLED)

    async def end(self, user_id: str, call_id: UUID) -> Call:
        """Hang up; while it rings, the caller's end is a cancel and the callee's a decline."""
        call, _ = await self._happen(call_id, lambda call: end_event_for(call, call.role_of(user_id)))
        return call

    async def expire(self, call_id: UUID) -> None:
        """End a call whose ring or paid time has run out, if it has."""
        await self._happen(call_id, lambda _call: None)

    async def vanish(self, call_id: UUID) -> None:
        """End a call one side of which has been gone for the whole grace."""
        try:
            await self._happen(call_id, lambda _call: Event.PARTY_VANISHED)
        except errors.CallEnded:
            return

    # -- questions -----------------------------------------------------------------------------------------------

    async def get(self, user_id: str, call_id: UUID) -> Call:
        async with self._db.connection() as conn:
            call = await calls_store.get(conn, call_id)
        if call is None:
            raise errors.NotFound("there is no such call")
        call.role_of(user_id)
        return call

    async def history(self, user_id: str, after: tuple[datetime, UUID] | None, limit: int) -> list[Call]:
        async with self._db.connection() as conn:
            return await calls_store.of_user(conn, user_id, after, limit)

    async def live_of(self, user_ids: Sequence[str]) -> dict[str, Call]:
        """The calls these users are in or are being rung for, by user."""
        async with self._db.connection() as conn:
            return await calls_store.live_of(conn, user_ids)

    # -- one transaction -----------------------------------------------------------------------------------------

    async def _allow_start(self, caller: Identity, request: str) -> None:
        limit = self._settings.rate_limit_trust_levels[caller.trust]
        # The same request from many tabs at once makes one call, and is one start.
        allowance = await self._limiter.take("calls", caller.user_id, limit, operation=request)
        if not allowance.allowed:
            raise errors.RateLimited(
                limit=limit, window_s=allowance.window_s, retry_after_s=allowance.reset_s, policy=allowance.policy
            )

    async def _make(self, caller_id: str, callee_id: str, request_id: str) -> tuple[Call, bool]:
        settings = self._settings
        async with self._db.begin() as conn:
            rate = await calls_store.rate_of(conn, callee_id, settings.default_rate_tokens_per_period)
            wallet_id, earnings_id = await store.ensure_accounts(conn, [(caller_id, "wallet"), (callee_id, "earnings")])
            if (await store.balance(conn, caller_id, "wallet")).balance < rate:
                raise errors.InsufficientFunds
            call = await calls_store.insert(
                conn,
                call_id=new_id(),
                caller_id=caller_id,
                callee_id=callee_id,
                request_id=request_id,
                terms=Terms(
                    rate_tokens_per_period=rate,
                    fee_percent=settings.platform_fee_percent,
                    period_s=settings.billing_period_seconds,
                    grace_s=settings.call_grace_seconds,
                    refund_unused_seconds=settings.billing_rounding is BillingRounding.SECOND,
                ),
                caller_wallet_id=wallet_id,
                callee_earnings_id=earnings_id,
                ring_timeout_s=settings.ring_timeout_seconds,
            )
            if call is None:  # another tab's start with this request committed first
                existing = await calls_store.of_request(conn, caller_id, request_id)
                assert existing is not None
                return existing, False
            if not await calls_store.take_parties(conn, call):
                raise errors.Busy
        return call, True

    async def _happen(
        self, call_id: UUID, choose: Callable[[Call], Event | None], *, answered_by: str | None = None
    ) -> tuple[Call, datetime]:
        """Apply the event `choose` picks for the call as it is now; None only brings the call up to date."""
        news: list[Push] = []
        try:
            async with self._db.connection() as conn:
                return await self._decide_and_carry_out(conn, call_id, choose, answered_by, news)
        finally:
            if news:
                await self._out.emit_many(news)

    async def _decide_and_carry_out(
        self,
        conn: Any,
        call_id: UUID,
        choose: Callable[[Call], Event | None],
        answered_by: str | None,
        news: list[Push],
    ) -> tuple[Call, datetime]:
        for _ in range(DECISIONS):
            read = await calls_store.get_at(conn, call_id)
            if read is None:
                raise errors.NotFound("there is no such call")
            call, now = read
            choose(call)  # a stranger changes nothing, not even what is due
            up_to_date = await self._bring_up_to_date(conn, call, now, news)
            if up_to_date is None:
                continue
            event = choose(up_to_date)
            if event is None:
                return up_to_date, now
            after = await self._carry_out(conn, up_to_date, decide(up_to_date, event, now), now, news, answered_by)
            if after is not None:
                return after, now
        raise errors.Unavailable("the call changes faster than it can be answered")

    async def _bring_up_to_date(self, conn: Any, call: Call, now: datetime, news: list[Push]) -> Call | None:
        """Do what was due before this event: the periods the meter has not reached yet, a ring that is over.

        None if somebody else did it first.
        """
        if call.status is Status.RINGING and now >= call.ring_expires_at:
            return await self._carry_out(conn, call, decide(call, Event.RANG_OUT, now), now, news)
        while call.status is Status.ACTIVE and _is_due(call, now):
            billed = await calls_store.bill(conn, call.id, self._put_out)
            if billed is None:
                return None
            self._note_billed(billed, news)
            call = billed.call
        return call

    async def _carry_out(
        self,
        conn: Any,
        call: Call,
        decision: Decision,
        now: datetime,
        news: list[Push],
        answered_by: str | None = None,
    ) -> Call | None:
        """The call after the decision; None if it had moved on from what was decided on, and nothing was done."""
        if decision.call == call:
            return call
        if Effect.BILL_FIRST_PERIOD in decision.effects:
            return await self._answered(conn, call, now, news, answered_by)
        return await self._ended(conn, call, decision, now, news)

    async def _answered(
        self, conn: Any, call: Call, now: datetime, news: list[Push], answered_by: str | None
    ) -> Call | None:
        billed = await calls_store.answer(conn, call, answered_by, now, self._put_out)
        if billed is None:
            return None
        self._note_billed(billed, news)
        if not billed.debited:
            raise errors.InsufficientFunds("the caller cannot pay the first period")
        rate = call.terms.rate_tokens_per_period
        log.info(
            "call accepted",
            call_id=str(call.id),
            caller=call.caller_id,
            callee=call.callee_id,
            rate_tokens_per_period=rate,
        )
        news += pushes.accepted(billed.call)
        return billed.call

    async def _ended(self, conn: Any, call: Call, decision: Decision, now: datetime, news: list[Push]) -> Call | None:
        back = settlement(decision.call) if Effect.SETTLE in decision.effects else pricing.NOTHING_UNUSED
        put_out = self._put_out if Effect.PUT_OUT in decision.effects else None
        done = await calls_store.end(conn, call, decision.call, now, back, put_out)
        if done is None:
            return None
        ended = done.call
        if done.settlement is not None:
            news += self._news_of_settled(done, back)
        log_ended(ended)
        news += pushes.ended(ended)
        return ended

    def _note_billed(self, billed: Billed, news: list[Push]) -> None:
        self._observer.billed(billed.outcome)
        news += news_of_billed(billed, self._issuer)
        if billed.call.status is Status.ENDED:
            log_ended(billed.call)

    def _news_of_settled(self, done: Ended, back: pricing.Unused) -> list[Push]:
        """What came back of the last period: earnings and the platform's fee → wallet."""
        call, call_id = done.call, str(done.call.id)
        if done.wallet is None:
            log.error("call not settled", call_id=call_id, outcome=done.settlement)
            return []
        news = pushes.wallet_changed(
            call.caller_id, done.wallet, delta=back.tokens, reason="call_refund", callId=call_id
        )
        if done.earnings is not None:
            delta = -back.from_earnings_tokens
            news += pushes.earnings_changed(
                call.callee_id, done.earnings, delta=delta, reason="call_refund", callId=call_id
            )
        return news

    # -- small rules ---------------------------------------------------------------------------------------------

    async def _end(self, user_id: str, call_id: UUID, role: Role, event: Event) -> Call:
        def choose(call: Call) -> Event:
            if call.role_of(user_id) is not role:
                raise errors.NotFound(f"there is no such call for its {role} to end")
            return event

        call, _ = await self._happen(call_id, choose)
        return call

    @staticmethod
    def _only_party(call: Call, user_id: str) -> None:
        call.role_of(user_id)

    @staticmethod
    def _must_be_active(call: Call) -> None:
        if call.status is Status.ENDED:
            raise errors.CallEnded
        if call.status is Status.RINGING:
            raise errors.CallNotAnswered

    def _answer(self, call: Call, role: Role, now: datetime) -> Answered:
        return Answered(call=call, agora=pushes.agora_payload(self._issuer, call, role, now))


def _is_due(call: Call, now: datetime) -> bool:
    assert call.paid_through is not None
    return call.paid_through <= now


def log_ended(call: Call) -> None:
    """The line an operator finds an ended call by, whoever ended it."""
    log.info(
        "call ended",
        call_id=str(call.id),
        caller=call.caller_id,
        callee=call.callee_id,
        reason=call.end_reason,
        periods_billed=call.periods_billed,
        tokens_spent=call.tokens_spent,
    )


def news_of_billed(billed: Billed, issuer: TokenIssuer) -> list[Push]:
    """What a billed period tells: balances, fresh tokens from the second period on, or the end of the call."""
    call = billed.call
    news: list[Push] = []
    if billed.debited:
        news += pushes.paid_period(call, billed.wallet, billed.earnings)
        if call.periods_billed > 1:
            news += pushes.renewed_tokens(issuer, call, billed.at)
    if call.status is Status.ENDED:
        news += pushes.ended(call)
    return news
