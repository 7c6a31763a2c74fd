"""The shapes of HTTP answers: documented by models, built by small functions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, RootModel

from ledger.journals import HistoryEntry
from realtime.domain.call import Account
from realtime.services.pushes import iso

TrustLevel = Literal["basic", "verified", "trusted", "vip"]
RoleName = Literal["user", "admin"]


class CallAnswer(BaseModel):
    id: str
    channel: str
    callerId: str
    calleeId: str
    status: Literal["ringing", "active", "ended"]
    rateTokensPerPeriod: int
    periodSeconds: int
    startedAt: str | None
    paidThrough: str | None
    endedAt: str | None
    endReason: (
        Literal["hangup", "declined", "cancelled", "missed", "insufficient_funds", "disconnected", "failed"] | None
    )
    periodsBilled: int
    tokensSpent: int


class OneCall(BaseModel):
    call: CallAnswer


class CallPage(BaseModel):
    items: list[CallAnswer]
    nextCursor: str | None


class Balance(BaseModel):
    balance: int
    version: int
    unit: Literal["TOKEN"]
    queryKey: list[str]


class Transaction(BaseModel):
    id: str
    type: str
    amount: int
    balanceAfter: int
    version: int
    at: str
    callId: str | None = None
    purchaseId: str | None = None
    reason: str | None = None


class TransactionPage(BaseModel):
    items: list[Transaction]
    nextCursor: str | None


class Me(BaseModel):
    userId: str
    tokensPerPeriod: int
    trust: TrustLevel
    role: RoleName


class Rate(BaseModel):
    tokensPerPeriod: int


class Health(BaseModel):
    status: Literal["healthy"]
    timestamp: str


class Ready(BaseModel):
    status: Literal["ready", "unready"]
    problems: dict[str, str] | None = None


class Token(BaseModel):
    token: str


class OnlineUser(BaseModel):
    userId: str
    ratePerPeriod: int
    inCall: bool


class OnlineUsers(BaseModel):
    users: list[OnlineUser]
    queryKey: list[str]


class Instance(BaseModel):
    id: str
    tabs: int
    users: int


class LiveCalls(BaseModel):
    ringing: int
    active: int


class MeterState(BaseModel):
    debitsPerSecond: float
    dueLagSeconds: float


class KindBalance(BaseModel):
    """What all accounts of a kind hold, on their normal side. A unit's two sides come to the same."""

    kind: str
    unit: Literal["TOKEN", "USD_CENT"]
    side: Literal["debit", "credit"]
    balance: int


class Pending(BaseModel):
    pending: int


class Failed(BaseModel):
    failed: int


class LastHour(BaseModel):
    lastHour: int


class OpsOverview(BaseModel):
    at: str
    instances: list[Instance]
    calls: LiveCalls
    meter: MeterState
    trialBalance: list[KindBalance]
    purchases: Pending
    jobs: Failed
    cspReports: LastHour


class ClientConfig(BaseModel):
    """What a page needs to know of the server."""

    environment: Literal["development", "production"]
    agoraConfigured: bool
    agoraAppId: str
    stripePublishableKey: str | None
    stripeApiBase: str | None
    """Set only while a stand-in takes Stripe's place."""
    tokensPerUsd: int
    periodSeconds: int
    devLogin: bool
    enhancedFeatures: bool


class SignedIn(BaseModel):
    authenticated: Literal[True]
    userId: str
    trust: TrustLevel
    role: RoleName
    csrfToken: str
    expiresAt: str
    config: ClientConfig


class SignedOut(BaseModel):
    authenticated: Literal[False]
    config: ClientConfig


class SessionState(RootModel[SignedIn | SignedOut]):
    """Who is signed in here, if anybody."""


def balance(account: Account, query_key: list[str]) -> dict[str, Any]:
    return {
        "balance": account.balance_tokens,
        "version": account.version,
        "unit": "TOKEN",
        "queryKey": query_key,
    }


def transaction(entry: HistoryEntry) -> dict[str, Any]:
    """One entry on a wallet; `amount` is what it did to the balance."""
    shown = {
        "id": str(entry.public_id),
        "type": entry.type,
        "amount": entry.delta,
        "balanceAfter": entry.balance_after,
        "version": entry.version,
        "at": iso(entry.created_at),
    }
    return shown | {key: entry.details[key] for key in ("callId", "purchaseId", "reason") if key in entry.details}
