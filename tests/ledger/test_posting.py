"""Posting batches: every outcome, and what is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

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


def spend(key: str, wallet: int, target: int, tokens: int, *, backwards: bool = False) -> Journal:
    legs = (debit(wallet, tokens), credit(target, tokens))
    return Journal(key, TransactionType.ADJUSTMENT, legs[::-1] if backwards else legs)


async def test_a_repeat_is_answered_leg_by_leg_as_the_original_was_whatever_happened_since(
    db: asyncpg.Connection,
) -> None:
    """The legs stand as the repeat gives them, and the accounts as the original left them."""
    await grant(db, "bob", 2)  # his versions are not hers
    ann, bob = await grant(db, "ann", 100), await grant(db, "bob", 1)
    (original,) = await store.post(db, [spend("first", ann, bob, 10)], actor="test")
    (later,) = await store.post(db, [spend("second", bob, ann, 5)], actor="test")
    again = [spend("first", ann, bob, 10, backwards=True), spend("second", bob, ann, 5), spend("first", ann, bob, 10)]
    postings = await store.post(db, [spend("third", ann, bob, 1), *again], actor="test")
    assert postings[0].legs == (PostedLeg(ann, 94, 4), PostedLeg(bob, 9, 5))
    assert [posting.outcome for posting in postings[1:]] == [Outcome.DUPLICATE] * 3
    assert [posting.journal_id for posting in postings[1:]] == [
        original.journal_id, later.journal_id, original.journal_id,
    ]  # fmt: skip
    assert postings[1].legs == (PostedLeg(bob, 13, 3), PostedLeg(ann, 90, 2))
    assert postings[2].legs == (PostedLeg(bob, 8, 4), PostedLeg(ann, 95, 3))
    assert postings[3].legs == original.legs == (PostedLeg(ann, 90, 2), PostedLeg(bob, 13, 3))


async def test_repeats_in_one_batch_are_answered_as_the_one_of_them_that_was_posted(db: asyncpg.Connection) -> None:
    """Which is not the first where the first was refused; what follows between two of them changes no answer."""
    await grant(db, "bob", 20)  # his versions are not hers
    ann, bob = await grant(db, "ann", 10), await grant(db, "bob", 30)
    batch = [
        spend("other", bob, ann, 1),  # 11 and 49
        spend("k", ann, bob, 30),  # refused
        spend("fund", bob, ann, 25),  # 36 and 24
        spend("k", ann, bob, 30),  # 6 and 54
        spend("more", bob, ann, 4),  # 10 and 50
        spend("k", ann, bob, 30, backwards=True),
        spend("k", ann, bob, 29),
        spend("k", ann, bob, 30),
        spend("fund", bob, ann, 25),
        spend("k", ann, bob, 30),
    ]
    postings = await store.post(db, batch, actor="test")
    posted, short, repeat, reused = (
        Outcome.POSTED, Outcome.INSUFFICIENT_FUNDS, Outcome.DUPLICATE, Outcome.KEY_REUSED,
    )  # fmt: skip
    assert [posting.outcome for posting in postings] == [
        posted, short, posted, posted, posted, repeat, reused, repeat, repeat, repeat,
    ]  # fmt: skip
    made = (PostedLeg(ann, 6, 4), PostedLeg(bob, 54, 5))
    assert postings[1].legs == (PostedLeg(ann, 11, 2), PostedLeg(bob, 49, 3))
    assert postings[3].legs == postings[7].legs == postings[9].legs == made
    assert postings[5].legs == made[::-1]
    assert postings[6].legs == (PostedLeg(ann, 10, 5), PostedLeg(bob, 50, 6))
    assert postings[8].legs == postings[2].legs == (PostedLeg(bob, 24, 4), PostedLeg(ann, 36, 3))
    assert {postings[place].journal_id for place in (3, 5, 7, 9)} == {postings[3].journal_id}
    assert postings[8].journal_id == postings[2].journal_id
    # And as stored, the same.
    again = await store.post(db, batch[3:], actor="test")
    assert [posting.legs for posting in again if posting.outcome is repeat] == [
        made, (PostedLeg(bob, 50, 6), PostedLeg(ann, 10, 5)), made[::-1], made, postings[2].legs, made,
    ]  # fmt: skip


async def test_a_key_that_a_batch_repeats_is_posted_once_though_each_time_could_be_paid(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 10), await grant(db, "bob", 1)
    postings = await store.post(db, [spend("k", ann, bob, 1)] * 3, actor="test")
    assert [posting.outcome for posting in postings] == [Outcome.POSTED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert {posting.legs for posting in postings} == {(PostedLeg(ann, 9, 2), PostedLeg(bob, 2, 2))}
    assert {posting.journal_id for posting in postings} == {postings[0].journal_id}


async def test_known_keys_are_each_answered_with_their_own_journal_in_the_order_asked(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 1000), await grant(db, "bob", 1)
    journals = [spend(f"{number:02}", ann, bob, number + 1) for number in range(20)]
    first = await store.post(db, journals, actor="test")
    order = [7, 3, 19, 0, 11, 4, 16, 2, 9]
    again = await store.post(db, [journals[number] for number in order], actor="test")
    assert {posting.outcome for posting in again} == {Outcome.DUPLICATE}
    assert [(posting.journal_id, posting.legs) for posting in again] == [
        (first[number].journal_id, first[number].legs) for number in order
    ]


async def test_the_audit_row_of_a_batch_names_who_posted_it_and_its_journals(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 100), await grant(db, "bob", 1)
    await store.post(db, [spend("a", ann, bob, 1)], actor="meter")
    postings = await store.post(db, [spend("b", ann, bob, 1), spend("c", ann, bob, 1)], actor="payments")
    rows = await db.fetch("SELECT actor, journal_ids FROM financial_audit_log WHERE action = 'post' ORDER BY seq")
    assert [row["actor"] for row in rows] == ["test", "test", "meter", "payments"]
    assert rows[-1]["journal_ids"] == [posting.journal_id for posting in postings]


async def test_who_posted_is_not_who_writes_by_hand_on_the_same_connection_later(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 100), await grant(db, "bob", 1)
    async with db.transaction():
        journal = await db.fetchval(
            "INSERT INTO journals (idempotency_key, type) VALUES ('by hand', 'adjustment') RETURNING id"
        )
        await db.execute(
            "INSERT INTO entries (journal_id, account_id, amount) VALUES ($1, $2, 1), ($1, $3, -1)", journal, ann, bob
        )
    actor = await db.fetchval("SELECT actor FROM financial_audit_log WHERE $1 = ANY (journal_ids)", journal)
    assert actor == await db.fetchval("SELECT session_user::text")


async def test_a_key_with_another_type_or_other_details_is_reused(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 100), await grant(db, "bob", 1)
    first = replace(spend("k", ann, bob, 1), details={"call": 1})
    await store.post(db, [first], actor="test")
    others = [replace(first, type=TransactionType.REFUND), replace(first, details={"call": 2}), first]
    postings = await store.post(db, others, actor="test")
    assert [posting.outcome for posting in postings] == [Outcome.KEY_REUSED, Outcome.KEY_REUSED, Outcome.DUPLICATE]


@asynccontextmanager
async def an_hour_ahead(db: asyncpg.Connection) -> AsyncIterator[None]:
    """The ids' clock while the block runs; after it the clock has been set back."""
    clock = await db.fetchval("SELECT pg_get_functiondef('ledger_id_at'::regproc)")
    await db.execute(clock.replace("epoch FROM p_at)", "epoch FROM p_at + interval '1 hour')"))
    yield
    await db.execute(clock)


async def test_ids_of_an_account_grow_when_the_clock_is_set_back_and_the_sequence_wraps(db: asyncpg.Connection) -> None:
    async with an_hour_ahead(db):
        await db.execute("SELECT setval('journal_id_low', 4194300)")
        ann = await grant(db, "ann", 10)
    await db.execute("SELECT setval('journal_id_low', 4194302)")
    for tokens in (11, 12, 13):
        await grant(db, "ann", tokens)
    entries = await db.fetch("SELECT version FROM entries WHERE account_id = $1 ORDER BY journal_id", ann)
    assert [entry["version"] for entry in entries] == [1, 2, 3, 4]


async def test_an_id_that_would_be_the_accounts_last_is_of_the_next_millisecond(db: asyncpg.Connection) -> None:
    """The clock is set back, and the sequence comes to the very number it had."""
    async with an_hour_ahead(db):
        await db.execute("SELECT setval('journal_id_low', 1000)")
        ann = await grant(db, "ann", 10)
    await db.execute("SELECT setval('journal_id_low', 1000)")
    await grant(db, "ann", 11)
    first, second = await db.fetch("SELECT journal_id FROM entries WHERE account_id = $1 ORDER BY version", ann)
    assert second["journal_id"] == first["journal_id"] + 2**22


async def test_ids_of_a_batch_grow_where_the_sequence_wraps_in_its_middle(db: asyncpg.Connection) -> None:
    ann, bob = await grant(db, "ann", 100), await grant(db, "bob", 1)
    await db.execute("SELECT setval('journal_id_low', 4194300)")
    batch = [spend(str(number), ann, bob, number + 1) for number in range(6)]
    postings = await store.post(db, batch, actor="test")
    assert {posting.outcome for posting in postings} == {Outcome.POSTED}
    ids = [posting.journal_id for posting in postings]
    rows = await db.fetch("SELECT journal_id FROM entries WHERE account_id = $1 ORDER BY version", bob)
    assert [row["journal_id"] for row in rows][1:] == ids
