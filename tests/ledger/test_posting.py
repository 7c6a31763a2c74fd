"""Posting batches: every outcome, and what is written."""

from __future__ import annotations

import asyncpg

from ledger import store
from ledger.journals import Journal, Outcome, PostedLeg, TransactionType, credit, debit


async def grant(db: asyncpg.Connection, owner: str, tokens: int) -> int:
    """Gives an owner tokens; answers the wallet's account id."""
    (wallet,) = await store.ensure_accounts(db, [(owner, "wallet")])
    source = await store.platform_account(db, "granted_tokens")
    journal = Journal(f"grant:{owner}:{tokens}", TransactionType.GRANT, (debit(source, tokens), credit(wallet, tokens)))
    (posting,) = await store.post(db, [journal], actor="test")
    assert posting.outcome is Outcome.POSTED
    return wallet


async def test_a_call_debit_moves_tokens_from_the_wallet_to_earnings_and_revenue(db: asyncpg.Connection) -> None:
    wallet = await grant(db, "ann", 100)
    (earnings,) = await store.ensure_accounts(db, [("bob", "earnings")])
    revenue = await store.platform_account(db, "platform_revenue")

    (posting,) = await store.post(
        db,
        [Journal("call:1:1", TransactionType.CALL_DEBIT, (debit(wallet, 10), credit(earnings, 8), credit(revenue, 2)))],
        actor="meter",
    )

    assert posting.outcome is Outcome.POSTED
    assert posting.legs == (PostedLeg(wallet, 90, 2), PostedLeg(earnings, 8, 1), PostedLeg(revenue, 2, 1))


async def test_a_refused_journal_leaves_its_neighbours_posted(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 10), await grant(db, "bob", 0 + 1)

    def move(key: str, source: int, target: int, tokens: int) -> Journal:
        return Journal(key, TransactionType.ADJUSTMENT, (debit(source, tokens), credit(target, tokens)))

    postings = await store.post(
        db,
        [
            move("a", ann, bob, 6),
            move("b", ann, bob, 5),
            move("c", bob, ann, 7),
            move("b2", ann, bob, 5),
            move("d", ann, 999_999, 1),
        ],
        actor="test",
    )

    assert [p.outcome for p in postings] == [
        Outcome.POSTED,
        Outcome.INSUFFICIENT_FUNDS,
        Outcome.POSTED,
        Outcome.POSTED,
        Outcome.UNKNOWN_ACCOUNT,
    ]
    assert postings[1].legs == (PostedLeg(ann, 4, 2), PostedLeg(bob, 7, 2))
    assert (await store.balance(db, "ann", "wallet")).balance == 6


async def test_the_same_key_again_answers_the_original_or_says_it_was_reused(db: asyncpg.Connection) -> None:
    wallet = await grant(db, "ann", 10)
    source = await store.platform_account(db, "granted_tokens")
    again = Journal("grant:ann:10", TransactionType.GRANT, (debit(source, 10), credit(wallet, 10)))
    other = Journal("grant:ann:10", TransactionType.GRANT, (debit(source, 11), credit(wallet, 11)))
    fresh = Journal("fresh", TransactionType.GRANT, (debit(source, 1), credit(wallet, 1)))

    postings = await store.post(db, [fresh, again, other, fresh], actor="test")

    assert [p.outcome for p in postings] == [Outcome.POSTED, Outcome.DUPLICATE, Outcome.KEY_REUSED, Outcome.DUPLICATE]
    assert postings[1].legs == (PostedLeg(source, 10, 1), PostedLeg(wallet, 10, 1))
    assert postings[3] == postings[0].__class__(Outcome.DUPLICATE, postings[0].journal_id, postings[0].legs)
    assert (await store.balance(db, "ann", "wallet")).version == 2


async def test_ids_of_an_account_grow_when_the_clock_is_set_back_and_the_sequence_wraps(db: asyncpg.Connection) -> None:
    clock = await db.fetchval("SELECT pg_get_functiondef('ledger_id_at'::regproc)")
    await db.execute(clock.replace("epoch FROM p_at)", "epoch FROM p_at + interval '1 hour')"))
    await db.execute("SELECT setval('journal_id_low', 4194300)")
    ann = await grant(db, "ann", 10)
    await db.execute(clock)
    await db.execute("SELECT setval('journal_id_low', 4194302)")
    for tokens in (11, 12, 13):
        await grant(db, "ann", tokens)
    entries = await db.fetch("SELECT version FROM entries WHERE account_id = $1 ORDER BY journal_id", ann)
    assert [entry["version"] for entry in entries] == [1, 2, 3, 4]
