"""The shapes of HTTP answers: documented by models, built by small functions."""

from __future__ import annotations

from typing import Any, Literal

from ledger.journals import Entry
from pydantic import BaseModel

from realtime.domain.call import Account
from realtime.services.pushes import iso


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
    trust: str
    role: str


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


def balance(account: Account, query_key: list[str]) -> dict[str, Any]:
    return {
        "balance": account.balance_tokens,
        "version": account.version,
        "unit": "TOKEN",
        "queryKey": query_key,
    }


def transaction(entry: Entry) -> dict[str, Any]:
    """One entry on a wallet; `amount` is what it did to the balance."""
    shown = {
        "id": entry.public_id,
        "type": entry.type,
        "amount": entry.change,
        "balanceAfter": entry.balance,
        "version": entry.version,
        "at": iso(entry.at),
    }
    return shown | {key: entry.details[key] for key in ("callId", "purchaseId", "reason") if key in entry.details}
