"""One call, as a value, and what each event makes of it.

`decide(call, event, now)` answers the call as it then is and the effects the shell must carry out in the same
transaction or after it. Nothing here reads a clock or talks to anything; all times are the database's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from realtime.domain import errors, pricing
from realtime.domain.transitions import TRANSITIONS, EndReason, Event, Status


class Role(StrEnum):
    CALLER = "caller"
    CALLEE = "callee"


AGORA_UID = {Role.CALLER: 1, Role.CALLEE: 2}
"""One Agora uid a side: a tab that takes the call over joins with the same uid, and Agora puts the older one out."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is frozen into a call when it is made, so that a later change of settings or rate never reaches it."""

    rate_tokens_per_period: int
    fee_percent: int
    period_s: int
    grace_s: int
    """How long after `paid_through` the video token still works."""
    refund_unused_seconds: bool

    @property
    def fee_tokens_per_period(self) -> int:
        return pricing.split(self.rate_tokens_per_period, self.fee_percent).fee_tokens


@dataclass(frozen=True, slots=True)
class Call:
    id: UUID
    caller_id: str
    callee_id: str
    request_id: str
    terms: Terms
    status: Status
    created_at: datetime
    ring_expires_at: datetime
    answered_by: str | None = None
    """The socket that accepted: its retry of the accept is answered again, another tab's is refused."""
    started_at: datetime | None = None
    paid_through: datetime | None = None
    ended_at: datetime | None = None
    end_reason: EndReason | None = None
    periods_billed: int = 0
    tokens_spent: int = 0

    @property
    def channel(self) -> str:
        """The Agora channel: its name says nothing of who talks."""
        return f"call_{self.id.hex}"

    def role_of(self, user_id: str) -> Role:
        """Which side the user is on; a stranger's call is one that is not there."""
        if user_id == self.caller_id:
            return Role.CALLER
        if user_id == self.callee_id:
            return Role.CALLEE
        raise errors.NotFound("there is no such call")

    @property
    def token_expires_at(self) -> datetime:
        """When the video token must stop working: the paid time and the grace."""
        assert self.paid_through is not None, "only an answered call has tokens"
        return self.paid_through + timedelta(seconds=self.terms.grace_s)


class Effect(StrEnum):
    BILL_FIRST_PERIOD = "bill_first_period"
    """Debit the first period in the same transaction; without it the call does not become active."""
    SETTLE = "settle"
    """Price the last period by the second and give the rest back, in the same transaction."""
    PUT_OUT = "put_out"
    """Put both sides out of the Agora channel: their tokens outlive what is paid."""


@dataclass(frozen=True, slots=True)
class Decision:
    call: Call
    effects: tuple[Effect, ...] = ()


UNPAID_ENDS = frozenset({EndReason.INSUFFICIENT_FUNDS, EndReason.FAILED})


def decide(call: Call, event: Event, now: datetime) -> Decision:
    """What `event` makes of `call` at `now`. An event the table does not know for this state is refused.

    A call that ended by any way before keeps its end: ending it again is answered with the call as it is.
    """
    transition = TRANSITIONS[call.status].get(event)
    if transition is None:
        return _unlisted(call, event)
    if transition.status is Status.ACTIVE:
        active = replace(call, status=Status.ACTIVE, started_at=now, paid_through=now)
        return Decision(active, (Effect.BILL_FIRST_PERIOD,))
    assert transition.end_reason is not None
    ended = replace(
        call, status=Status.ENDED, end_reason=transition.end_reason, ended_at=_end_of(call, transition.end_reason, now)
    )
    effects = []
    settles = call.status is Status.ACTIVE and call.terms.refund_unused_seconds and call.periods_billed > 0
    if settles:
        effects.append(Effect.SETTLE)
    # Whoever hangs up and is given the rest of the period back could else go on talking until it would have ended.
    if settles or (call.status is Status.ACTIVE and transition.end_reason in UNPAID_ENDS):
        effects.append(Effect.PUT_OUT)
    return Decision(ended, tuple(effects))


ENDING_EVENTS = frozenset({Event.DECLINED, Event.CANCELLED, Event.HUNG_UP})


def _unlisted(call: Call, event: Event) -> Decision:
    if call.status is Status.ENDED:
        if event in ENDING_EVENTS:
            return Decision(call)
        raise errors.CallEnded
    if call.status is Status.ACTIVE and event in {Event.ACCEPTED, Event.DECLINED, Event.CANCELLED}:
        raise errors.CallAlreadyAnswered
    raise errors.CallNotAnswered


def _end_of(call: Call, reason: EndReason, now: datetime) -> datetime:
    """Unpaid calls end where the paid time ends, however late that was noticed; others end now."""
    if call.paid_through is not None and reason in UNPAID_ENDS:
        return min(now, call.paid_through)
    return now


def settlement(call: Call) -> pricing.Unused:
    """What an ended call gives back of its last period."""
    assert call.ended_at is not None
    assert call.paid_through is not None
    period_s = call.terms.period_s
    last_period_start = call.paid_through - timedelta(seconds=period_s)
    used_s = (call.ended_at - last_period_start).total_seconds()
    return pricing.unused(call.terms.rate_tokens_per_period, call.terms.fee_percent, period_s, used_s)


def end_event_for(call: Call, role: Role) -> Event:
    """`call:end` while it rings is the caller's cancel or the callee's decline; afterwards it is hanging up."""
    if call.status is not Status.RINGING:
        return Event.HUNG_UP
    return Event.CANCELLED if role is Role.CALLER else Event.DECLINED


@dataclass(frozen=True, slots=True)
class Account:
    """Where an account of a party stands after an entry: what `balance:update` and `earnings:update` carry."""

    balance_tokens: int
    version: int
