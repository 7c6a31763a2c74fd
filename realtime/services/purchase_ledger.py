"""A purchase in the ledger: money taken and tokens issued when it succeeds, both taken back by refunds and disputes.

The provider's figures of refunds and disputes are cumulative, and what the ledger has booked of them is in the
purchase's row: only the difference is posted, so the same refund by an event, its duplicate and our own answer is
booked once. Tokens are taken back to what the wallet holds, which never goes below zero; the rest is booked as owed,
and is the buyer's receivable. Later purchases and grants do not pay it off by themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from ledger import store
from ledger.journals import Journal, Leg, Outcome, Posting, TransactionType
from realtime.adapters import purchases_store
from realtime.domain.call import Account
from realtime.domain.purchase import Purchase, Reversal, Shares, Status, reversal, shares
from realtime.services import pushes
from realtime.services.news import News

TRIES = 20


class NotBooked(Exception):
    """The ledger refused a journal it should take: tried again later, and said."""


class _Platform(NamedTuple):
    """The platform's accounts that stand against a buyer's."""

    clearing: int
    """Money at the provider, in cents."""
    sales: int
    """What we owe in service for it, in cents."""
    issued: int
    """The tokens sold."""


async def credit(conn: Any, purchase: Purchase, news: News) -> tuple[Purchase, Account]:
    """Money at the provider against what we owe in service, and as many tokens issued as the wallet gains.

    Answers the purchase as it then is, and where its journal left the wallet.
    """
    [wallet_id] = await store.ensure_accounts(conn, [(purchase.user_id, "wallet")])
    platform = await _platform(conn)
    journal = Journal(
        key=f"purchase:{purchase.id}",
        type=TransactionType.PURCHASE,
        legs=(
            Leg(platform.clearing, purchase.amount_cents),
            Leg(platform.sales, -purchase.amount_cents),
            Leg(platform.issued, purchase.tokens),
            Leg(wallet_id, -purchase.tokens),
        ),
        details=_details(purchase),
    )
    [posting] = await store.post(conn, [journal], actor=purchase.user_id)
    if posting.outcome is not Outcome.POSTED:
        raise NotBooked(f"purchase {purchase.id}: {posting.outcome}")
    after = _account_after(posting, wallet_id)
    news.line(
        "purchase succeeded",
        purchase_id=str(purchase.id),
        user_id=purchase.user_id,
        amount_cents=purchase.amount_cents,
        tokens=purchase.tokens,
        journal_id=posting.journal_id,
    )
    _tell_buyer(news, purchase, after, delta=purchase.tokens, reason="purchase")
    # A refund or dispute that overtook the success has only been noted so far.
    overtaken_by = TransactionType.REFUND if purchase.refunded_cents else TransactionType.DISPUTE
    return await reverse(conn, purchase, overtaken_by, news, actor="stripe"), after


async def note_refunded(conn: Any, purchase_id: UUID, refunded_cents: int, news: News, *, actor: str) -> Purchase:
    """Book what was paid back in all, by the provider's cumulative figure: an older one changes nothing."""
    purchase = await purchases_store.lock(conn, purchase_id)
    assert purchase is not None, "purchases are never deleted"
    noted = replace(purchase, refunded_cents=max(purchase.refunded_cents, refunded_cents))
    return await reverse(conn, noted, TransactionType.REFUND, news, actor=actor)


async def reverse(conn: Any, purchase: Purchase, cause: TransactionType, news: News, *, actor: str) -> Purchase:
    """Bring the ledger up to the purchase's refunds and disputes, in the caller's transaction, its row held."""
    due = reversal(purchase)
    if purchase.status is not Status.SUCCEEDED or (due.cents == 0 and due.tokens == 0):
        await purchases_store.save_reversal(conn, purchase)
        return purchase
    number = purchase.adjustments + 1
    wallet_id, owed_id = await store.ensure_accounts(
        conn, [(purchase.user_id, "wallet"), (purchase.user_id, "receivable")]
    )
    platform = await _platform(conn)
    # The balance is read without a lock, since locks are taken in the ledger's own order: if the meter or another
    # refund was quicker, the posting says so and the balance is read again.
    for _ in range(TRIES):
        wallet = await store.balance(conn, purchase.user_id, "wallet")
        parts = shares(purchase, due, wallet.balance)
        legs = (
            Leg(wallet_id, parts.wallet_tokens),
            Leg(owed_id, parts.owed_tokens),
            Leg(platform.issued, -due.tokens),
            Leg(platform.sales, due.cents),
            Leg(platform.clearing, -due.cents),
        )
        journal = Journal(
            key=f"purchase:{purchase.id}:reversal:{number}",
            type=cause,
            legs=tuple(leg for leg in legs if leg.amount),
            details=_details(purchase),
        )
        [posting] = await store.post(conn, [journal], actor=actor)
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
    _note_reversal(news, booked, cause, due, parts, posting)
    after = _account_after(posting, wallet_id) if parts.wallet_tokens else None
    _tell_buyer(news, booked, after, delta=-parts.wallet_tokens, reason=cause.value)
    return booked


async def _platform(conn: Any) -> _Platform:
    kinds = ("stripe_clearing", "token_sales", "tokens_issued")
    return _Platform(*[await store.platform_account(conn, kind) for kind in kinds])


def _details(purchase: Purchase) -> dict[str, Any]:
    return {"purchaseId": str(purchase.id), "paymentIntentId": purchase.payment_intent_id}


def _account_after(posting: Posting, account_id: int) -> Account:
    [leg] = [leg for leg in posting.legs if leg.account_id == account_id]
    return pushes.account_after(leg)


def _note_reversal(
    news: News, purchase: Purchase, cause: TransactionType, due: Reversal, parts: Shares, posting: Posting
) -> None:
    news.line(
        "purchase reversed",
        purchase_id=str(purchase.id),
        user_id=purchase.user_id,
        cause=cause.value,
        cents=due.cents,
        wallet_tokens=parts.wallet_tokens,
        owed_tokens=parts.owed_tokens,
        journal_id=posting.journal_id,
    )


def _tell_buyer(news: News, purchase: Purchase, wallet: Account | None, *, delta: int, reason: str) -> None:
    """Without a wallet only the purchase has changed."""
    if wallet is not None:
        purchase_id = str(purchase.id)
        news.push(pushes.wallet_changed(purchase.user_id, wallet, delta=delta, reason=reason, purchaseId=purchase_id))
    news.push(pushes.invalidate([purchase.user_id], ["purchases"]))
