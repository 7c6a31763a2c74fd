"""The ledger's vocabulary as values: what is posted, and what posting answers.

Amounts are signed integers in the account's unit, debit positive and credit negative; the legs of a journal sum to zero
in each unit. Balances are on an account's normal side, so tokens in a wallet (a liability) are positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

# 2^53 - 1: the largest amount and balance; exact as a JSON number in every client.
MAX_AMOUNT = 9_007_199_254_740_991


class Unit(StrEnum):
    """What an account counts."""

    TOKEN = "TOKEN"  # noqa: S105
    USD_CENT = "USD_CENT"


class AccountType(StrEnum):
    """Debits raise assets and expenses; credits raise the rest."""

    ASSET = "asset"
    LIABILITY = "liability"
    EQUITY = "equity"
    REVENUE = "revenue"
    EXPENSE = "expense"


class TransactionType(StrEnum):
    """Why a journal was posted."""

    PURCHASE = "purchase"
    CALL_DEBIT = "call_debit"
    CALL_REFUND = "call_refund"  # unused seconds given back
    GRANT = "grant"
    REFUND = "refund"
    DISPUTE = "dispute"
    DISPUTE_REVERSAL = "dispute_reversal"
    ADJUSTMENT = "adjustment"


class Outcome(StrEnum):
    """What became of one journal of a batch. The database tests in this order and answers the first that holds."""

    POSTED = "posted"
    DUPLICATE = "duplicate"
    KEY_REUSED = "key_reused"
    INVALID_JOURNAL = "invalid_journal"
    INVALID_AMOUNT = "invalid_amount"
    UNKNOWN_ACCOUNT = "unknown_account"
    CLOSED_ACCOUNT = "closed_account"
    MIXED_UNITS = "mixed_units"
    UNBALANCED = "unbalanced"
    INSUFFICIENT_FUNDS = "insufficient_funds"

    @property
    def retryable(self) -> bool:
        """The same journal may be posted later: it failed on the state of an account, not on itself."""
        return self in (Outcome.UNKNOWN_ACCOUNT, Outcome.CLOSED_ACCOUNT, Outcome.INSUFFICIENT_FUNDS)

    @property
    def sqlstate(self) -> str | None:
        """What `ledger_post_or_raise` raises for it; None where nothing was refused."""
        return _SQLSTATES.get(self)


_SQLSTATES = {
    Outcome.UNBALANCED: "LG001",
    Outcome.MIXED_UNITS: "LG002",
    Outcome.INVALID_AMOUNT: "LG003",
    Outcome.INVALID_JOURNAL: "LG004",
    Outcome.UNKNOWN_ACCOUNT: "LG005",
    Outcome.CLOSED_ACCOUNT: "LG006",
    Outcome.INSUFFICIENT_FUNDS: "LG007",
    Outcome.KEY_REUSED: "LG008",
}


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it stands; `owner_id` is None for the platform's own, `balance` is in `unit` on its normal side."""

    id: int
    owner_id: str | None
    kind: str
    type: AccountType
    unit: Unit
    balance: int
    version: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a journal: `amount` in the account's unit, debit positive, credit negative."""

    account_id: int
    amount: int


def debit(account_id: int, amount: int) -> Leg:
    """A leg that debits `amount` (positive). The sign is checked when it is posted: see Outcome.INVALID_AMOUNT."""
    return Leg(account_id, amount if amount > 0 else 0)


def credit(account_id: int, amount: int) -> Leg:
    """A leg that credits `amount` (positive). The sign is checked when it is posted: see Outcome.INVALID_AMOUNT."""
    return Leg(account_id, -amount if amount > 0 else 0)


@dataclass(frozen=True, slots=True)
class Journal:
    """What to post. The same `key` (1 to 255 characters) with the same type, legs and details is posted once."""

    key: str
    type: TransactionType
    legs: tuple[Leg, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PostedLeg:
    """An account after a journal; None for an account that does not exist, or a month that was detached."""

    account_id: int
    balance: int | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Posting:
    """The answer for one journal. `legs` are parallel to the journal's and hold balances and versions after it; for a
    refused journal those it found, for a duplicate those of the original."""

    outcome: Outcome
    journal_id: int | None
    legs: tuple[PostedLeg, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A balance and its version, now or at a time."""

    balance: int
    version: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of an account with its journal; `delta`, on its normal side, is what the balance changed by."""

    journal_id: int
    public_id: UUID
    created_at: datetime
    type: TransactionType
    key: str
    details: Mapping[str, Any]
    delta: int
    balance_after: int
    version: int
