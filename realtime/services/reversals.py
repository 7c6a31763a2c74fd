"""Refunds and disputes in the ledger: tokens are taken back to what the wallet holds, the rest is booked as owed.

The provider's figures are cumulative, and what the ledger has booked of them is in the purchase's row: only the
difference is posted, so the same refund by an event, its duplicate and our own answer is booked once. A wallet never
goes below zero. What is owed is the buyer's receivable; later purchases and grants do not pay it off by themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import structlog

from ledger import store
from ledger.journals import Journal, Leg, Outcome, Posting, TransactionType
from realtime.adapters import purchases_store
from realtime.domain.call import Account
from realtime.domain.purchase import Purchase, Reversal, Shares, Status, reversal, shares
from realtime.services import pushes
from realtime.services.pushes import Push

log = structlog.get_logger()

TRIES = 20


class NotBooked(Exception):
    """The ledger refused a journal it should take: tried again later, and said."""


async def book(conn: Any, purchase: Purchase, cause: TransactionType, *, actor: str) -> tuple[Purchase, list[Push]]:
    """Bring the ledger up to the purchase's refunds and disputes, in the caller's transaction, its row held.

    Answers the purchase as it then is and what its buyer is to be told after the commit.
    """
    due = reversal(purchase)
    if purchase.status is not Status.SUCCEEDED or (due.cents == 0 and due.tokens == 0):
        await purchases_store.save_reversal(conn, purchase)
        return purchase, []
    number = purchase.adjustments + 1
    wallet_id, owed_id = await store.ensure_accounts(
        conn, [(purchase.user_id, "wallet"), (purchase.user_id, "receivable")]
    )
    issued, clearing, sales = [
        await store.platform_account(conn, kind) for kind in ("tokens_issued", "stripe_clearing", "token_sales")
    ]
    # The balance is read without a lock, since locks are taken in the ledger's own order: if the meter or another
    # refund was quicker, the posting says so and the balance is read again.
    for _ in range(TRIES):
        wallet = await store.balance(conn, purchase.user_id, "wallet")
        parts = shares(purchase, due, wallet.balance)
        legs = (
            Leg(wallet_id, parts.wallet_tokens),
            Leg(owed_id, parts.owed_tokens),
            Leg(issued, -due.tokens),
            Leg(sales, due.cents),
            Leg(clearing, -due.cents),
        )
        [posting] = await store.post(
            conn,
            [
                Journal(
                    key=f"purchase:{purchase.id}:reversal:{number}",
                    type=cause,
                    legs=tuple(leg for leg in legs if leg.amount),
                    details={"purchaseId": str(purchase.id), "paymentIntentId": purchase.payment_intent_id},
                )
            ],
            actor=actor,
        )
        if posting.outcome is not Outcome.INSUFFICIENT_FUNDS:
            break
    if posting.outcome is not Outcome.POSTED:
        raise NotBooked(f"purchase {purchase.id}, reversal {number}: {posting.outcome}")
    booked = replace(
        purchase,
        reversed_cents=purchase.reversed_cents + due.cents,
        reversed_tokens=purchase.reversed_tokens + due.tokens,
        owed_tokens=purchase.owed_tokens + parts.owed_tokens,
        adjustments=number,
    )
    await purchases_store.save_reversal(conn, booked)
    _log(booked, cause, due, parts, posting)
    return booked, _news(booked, cause, parts, posting, wallet_id)


def _log(purchase: Purchase, cause: TransactionType, due: Reversal, parts: Shares, posting: Posting) -> None:
    log.info(
        "purchase reversed",
        purchase_id=str(purchase.id),
        user=purchase.user_id,
        cause=cause.value,
        cents=due.cents,
        wallet_tokens=parts.wallet_tokens,
        owed_tokens=parts.owed_tokens,
        journal_id=posting.journal_id,
    )


def _news(purchase: Purchase, cause: TransactionType, parts: Shares, posting: Posting, wallet_id: int) -> list[Push]:
    invalid = pushes.invalidate([purchase.user_id], ["purchases"])
    if parts.wallet_tokens == 0:
        return invalid
    after = account_after(posting, wallet_id)
    changed = pushes.wallet_changed(
        purchase.user_id, after, delta=-parts.wallet_tokens, reason=cause.value, purchaseId=str(purchase.id)
    )
    return [*changed, *invalid]


def account_after(posting: Posting, account_id: int) -> Account:
    """Where an account stands after a journal it is in."""
    [leg] = [leg for leg in posting.legs if leg.account_id == account_id]
    assert leg.balance is not None
    assert leg.version is not None
    return Account(leg.balance, leg.version)
