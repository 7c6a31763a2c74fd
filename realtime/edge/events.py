"""What is pushed to tabs and what acknowledgements carry, as models: the AsyncAPI document is made from them.

The payloads themselves are built in `realtime.services.pushes`; a test holds each that is sent against its model here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel

from realtime.edge.answers import CallAnswer, OpsOverview


class AgoraAccess(BaseModel):
    """One side's way into the call's channel."""

    appId: str
    channel: str
    uid: int
    token: str
    expiresAt: str


# -- acknowledgements --------------------------------------------------------------------------------------------------


class Acknowledged(BaseModel):
    ok: Literal[True]


class CallAcknowledged(Acknowledged):
    call: CallAnswer


class InCallAcknowledged(Acknowledged):
    call: CallAnswer
    agora: AgoraAccess


class AgoraAcknowledged(Acknowledged):
    agora: AgoraAccess


class BalanceAcknowledged(Acknowledged):
    balance: int
    version: int


class RenewedAcknowledged(Acknowledged):
    expiresAt: str


# -- pushes ------------------------------------------------------------------------------------------------------------


class CallPush(BaseModel):
    call: CallAnswer


class CallAccepted(BaseModel):
    call: CallAnswer
    answeredBy: str | None
    """The id of the socket that answered: every other tab stops ringing."""


class CallToken(BaseModel):
    callId: str
    agora: AgoraAccess


class BalanceUpdate(BaseModel):
    """Where an account stands after an entry; `version` grows by one with each."""

    balance: int
    version: int
    delta: int
    reason: str
    """`snapshot`, or the kind of transaction: `call_debit`, `purchase`, `grant`, `refund`, …"""
    callId: str | None = None
    purchaseId: str | None = None
    queryKey: list[str]


class BalanceLow(BaseModel):
    balance: int
    periodsLeft: int
    callId: str


class Invalidated(BaseModel):
    queryKeys: list[list[str]]


class AuthExpired(BaseModel):
    graceSeconds: float
    """How long the socket is kept for `auth:renew` before it is closed."""


class SentEvent(NamedTuple):
    payload: type[BaseModel]
    to: str
    summary: str


SENT: Mapping[str, SentEvent] = {
    "call:incoming": SentEvent(CallPush, "every tab of the callee", "A call rings."),
    "call:accepted": SentEvent(CallAccepted, "every tab of both", "A call was answered; other tabs stop ringing."),
    "call:ended": SentEvent(CallPush, "every tab of both", "A call has ended; `endReason` says why."),
    "call:token": SentEvent(CallToken, "the tabs in the call", "A period was paid; here is its video token."),
    "balance:update": SentEvent(BalanceUpdate, "every tab of the user", "The wallet has a new entry."),
    "earnings:update": SentEvent(BalanceUpdate, "every tab of the callee", "The earnings have a new entry."),
    "balance:low": SentEvent(BalanceLow, "every tab of the payer", "Less than two more periods can be paid."),
    "query:invalidate": SentEvent(
        Invalidated, "every tab of the user", "What else has changed and is to be refetched."
    ),
    "auth:expired": SentEvent(
        AuthExpired, "the socket", "Its token has run out; `auth:renew` with a new one keeps it open."
    ),
    "ops:update": SentEvent(OpsOverview, "tabs of admins that watch", "How everything stands, every two seconds."),
}
