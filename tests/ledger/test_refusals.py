"""Bad input: its own outcome for who asks for outcomes, its own SQLSTATE for who does not, nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from ledger import store
from ledger.journals import MAX_AMOUNT, Journal, Leg, Outcome, PostedLeg, TransactionType, credit, debit

# What is in the ledger, to the last row.
CONTENTS = """
SELECT (SELECT count(*) FROM journals), (SELECT count(*) FROM entries), (SELECT count(*) FROM journal_keys),
       (SELECT count(*) FROM financial_audit_log), (SELECT array_agg((id, balance, version) ORDER BY id) FROM accounts)
"""
POST_OR_RAISE = """
SELECT outcome FROM ledger_post_or_raise($1::text[], $2::text[]::transaction_type[], $3::text[]::jsonb[], $4::int[],
    $5::bigint[], $6::bigint[], 'test')
"""


@dataclass
class Books:
    """ann has 100 tokens, bob none, cat's wallet is closed; `grant` is the journal that gave ann hers."""

    ann: int
    bob: int
    cat: int
    granted: int
    cents: int
    grant: Journal


@pytest.fixture
async def books(db: asyncpg.Connection) -> Books:
    ann, bob, cat = await store.ensure_accounts(db, [(owner, "wallet") for owner in ("ann", "bob", "cat")])
    granted = await store.platform_account(db, "granted_tokens")
    grant = Journal("grant", TransactionType.GRANT, (debit(granted, 100), credit(ann, 100)))
    await store.post(db, [grant], actor="test")
    await db.execute("UPDATE accounts SET status = 'closed' WHERE id = $1", cat)
    return Books(ann, bob, cat, granted, await store.platform_account(db, "stripe_clearing"), grant)


def legs_of(kind: str, b: Books) -> tuple[Leg, ...]:
    plain = (Leg(b.ann, 1), Leg(b.bob, -1))
    return {
        "nothing": (),
        "one leg": (Leg(b.ann, 1),),
        "an account twice": (Leg(b.ann, 1), Leg(b.ann, 1), Leg(b.bob, -2)),
        "1,001 legs": tuple(Leg(10_000 + number, MAX_AMOUNT) for number in range(1_001)),
        "zero": (Leg(b.ann, 0), Leg(b.bob, 0)),
        "a negative debit": (debit(b.ann, -1), credit(b.bob, -1)),
        "beyond the largest": (Leg(b.granted, MAX_AMOUNT + 1), Leg(b.ann, -MAX_AMOUNT - 1)),
        "beyond bigint": (Leg(b.granted, 2**70), Leg(b.ann, -(2**70))),
        "a balance beyond the largest": (Leg(b.granted, MAX_AMOUNT), Leg(b.bob, -MAX_AMOUNT)),
        "an account nobody has": (Leg(b.ann, 1), Leg(999_999, -1)),
        "a closed account": (Leg(b.ann, 1), Leg(b.cat, -1)),
        "two units": (Leg(b.cents, 1), Leg(b.ann, -1)),
        "one side short": (Leg(b.ann, 2), Leg(b.bob, -1)),
        "more than there is": (Leg(b.ann, 101), Leg(b.bob, -101)),
        "other content": plain,
        "no key": plain,
        "a key too long": plain,
    }[kind]


KEYS = {"other content": "grant", "no key": "", "a key too long": "k" * 256}
REFUSALS = {
    "nothing": Outcome.INVALID_JOURNAL,
    "one leg": Outcome.INVALID_JOURNAL,
    "an account twice": Outcome.INVALID_JOURNAL,
    "1,001 legs": Outcome.INVALID_JOURNAL,
    "no key": Outcome.INVALID_JOURNAL,
    "a key too long": Outcome.INVALID_JOURNAL,
    "zero": Outcome.INVALID_AMOUNT,
    "a negative debit": Outcome.INVALID_AMOUNT,
    "beyond the largest": Outcome.INVALID_AMOUNT,
    "beyond bigint": Outcome.INVALID_AMOUNT,
    "a balance beyond the largest": Outcome.INVALID_AMOUNT,
    "an account nobody has": Outcome.UNKNOWN_ACCOUNT,
    "a closed account": Outcome.CLOSED_ACCOUNT,
    "two units": Outcome.MIXED_UNITS,
    "one side short": Outcome.UNBALANCED,
    "more than there is": Outcome.INSUFFICIENT_FUNDS,
    "other content": Outcome.KEY_REUSED,
}


def bad_journal(kind: str, books: Books) -> Journal:
    return Journal(KEYS.get(kind, "bad"), TransactionType.ADJUSTMENT, legs_of(kind, books))


@pytest.mark.parametrize(("kind", "outcome"), REFUSALS.items())
async def test_bad_input_has_its_own_outcome_and_leaves_nothing(
    db: asyncpg.Connection, books: Books, kind: str, outcome: Outcome
) -> None:
    before = await db.fetchrow(CONTENTS)
    (posting,) = await store.post(db, [bad_journal(kind, books)], actor="test")
    assert (posting.outcome, posting.journal_id) == (outcome, None)
    assert await db.fetchrow(CONTENTS) == before


@pytest.mark.parametrize("kind", REFUSALS)
async def test_bad_input_between_good_refuses_neither_neighbour(
    db: asyncpg.Connection, books: Books, kind: str
) -> None:
    first = Journal("first", TransactionType.ADJUSTMENT, (debit(books.ann, 30), credit(books.bob, 30)))
    last = Journal("last", TransactionType.ADJUSTMENT, (debit(books.bob, 10), credit(books.ann, 10)))
    # After the first, ann is 30 short of what the grant gave her, and bob 30 nearer the largest balance.
    postings = await store.post(db, [first, bad_journal(kind, books), last], actor="test")
    assert [posting.outcome for posting in postings] == [Outcome.POSTED, REFUSALS[kind], Outcome.POSTED]
    assert (await store.balance(db, "ann", "wallet")).balance == 80
    assert (await store.balance(db, "bob", "wallet")).version == 2


@pytest.mark.parametrize(("kind", "outcome"), REFUSALS.items())
async def test_who_does_not_ask_for_outcomes_is_told_by_sqlstate_and_nothing_of_the_batch_is_written(
    db: asyncpg.Connection, books: Books, kind: str, outcome: Outcome
) -> None:
    before = await db.fetchrow(CONTENTS)
    good = Journal("good", TransactionType.ADJUSTMENT, (debit(books.ann, 1), credit(books.bob, 1)))
    with pytest.raises(asyncpg.PostgresError) as refused:
        await db.fetch(POST_OR_RAISE, *arguments(good, bad_journal(kind, books)))
    assert refused.value.sqlstate == outcome.sqlstate
    assert await db.fetchrow(CONTENTS) == before


def test_every_refusal_has_a_sqlstate_of_its_own() -> None:
    written = {Outcome.POSTED, Outcome.DUPLICATE}
    refusals = set(Outcome) - written
    assert len({outcome.sqlstate for outcome in refusals}) == len(refusals)
    assert {outcome.sqlstate for outcome in written} == {None}
    assert set(REFUSALS.values()) == refusals


# Wrong in two ways at once: the legs by account, and which of the two is told.
BOTH = {
    "reused, and one leg": ("grant", [("ann", 1)], Outcome.KEY_REUSED),
    "an account twice, and zero": ("bad", [("ann", 0), ("ann", 0)], Outcome.INVALID_JOURNAL),
    "no key, and an account nobody has": ("", [("ann", 1), ("nobody", -1)], Outcome.INVALID_JOURNAL),
    "zero, and an account nobody has": ("bad", [("ann", 0), ("nobody", 1)], Outcome.INVALID_AMOUNT),
    "too much, of an account nobody has": ("bad", [("ann", 1), ("nobody", MAX_AMOUNT + 1)], Outcome.INVALID_AMOUNT),
    "zero, and a closed account": ("bad", [("cat", 0), ("ann", 1)], Outcome.INVALID_AMOUNT),
    "nobody's, and a closed account": ("bad", [("cat", 1), ("nobody", -1)], Outcome.UNKNOWN_ACCOUNT),
    "nobody's, and short": ("bad", [("ann", 101), ("nobody", -101)], Outcome.UNKNOWN_ACCOUNT),
    "closed, and one opened later": ("bad", [("cat", 1), ("dan", -1)], Outcome.CLOSED_ACCOUNT),
    "closed, and two units": ("bad", [("cents", 1), ("cat", -1)], Outcome.CLOSED_ACCOUNT),
    "closed, and one side short": ("bad", [("ann", 1), ("cat", -2)], Outcome.CLOSED_ACCOUNT),
    "closed, and more than there is": ("bad", [("ann", 101), ("cat", -101)], Outcome.CLOSED_ACCOUNT),
    "two units, and a balance too large": (
        "bad",
        [("granted", MAX_AMOUNT), ("cents", -MAX_AMOUNT)],
        Outcome.MIXED_UNITS,
    ),
    "one side short, and a balance too large": (
        "bad",
        [("granted", MAX_AMOUNT), ("bob", -MAX_AMOUNT + 1)],
        Outcome.UNBALANCED,
    ),
    "two units, and more than there is": ("bad", [("ann", 101), ("cents", -101)], Outcome.MIXED_UNITS),
    "one side short, and more than there is": ("bad", [("ann", 101), ("bob", -100)], Outcome.UNBALANCED),
    "a balance too large, and more than there is": (
        "bad",
        [("granted", MAX_AMOUNT), ("ann", 101), ("bob", -MAX_AMOUNT), ("revenue", -101)],
        Outcome.INVALID_AMOUNT,
    ),
}


async def test_what_is_wrong_in_two_ways_is_told_by_the_first_of_them(db: asyncpg.Connection, books: Books) -> None:
    (dan,) = await store.ensure_accounts(db, [("dan", "wallet")])
    accounts = {
        **vars(books),
        "dan": dan,
        "nobody": 999_999,
        "revenue": await store.platform_account(db, "platform_revenue"),
    }
    journals = [
        Journal(key, TransactionType.ADJUSTMENT, tuple(Leg(accounts[name], amount) for name, amount in legs))
        for key, legs, _ in BOTH.values()
    ]
    told = {
        what: (await store.post(db, [journal], actor="test"))[0].outcome
        for what, journal in zip(BOTH, journals, strict=True)
    }
    assert told == {what: outcome for what, (_, _, outcome) in BOTH.items()}


@pytest.mark.parametrize("beside", ["alone", "beside a repeat"])
async def test_an_account_may_be_brought_to_its_very_bounds_and_not_one_further(
    db: asyncpg.Connection, books: Books, beside: str
) -> None:
    """Also in a batch with a repeat, where every journal is looked at closely."""
    revenue = await store.platform_account(db, "platform_revenue")
    repeat = [books.grant] * (beside != "alone")

    async def outcome(debited: int, credited: int, tokens: int) -> Outcome:
        key = f"{debited}:{credited}:{tokens}"
        journal = Journal(key, TransactionType.ADJUSTMENT, (debit(debited, tokens), credit(credited, tokens)))
        return (await store.post(db, [*repeat, journal], actor="test"))[-1].outcome

    assert await outcome(books.ann, books.bob, 101) is Outcome.INSUFFICIENT_FUNDS
    assert await outcome(books.ann, books.bob, 100) is Outcome.POSTED  # nothing is left
    assert await outcome(books.granted, books.ann, MAX_AMOUNT - 99) is Outcome.INVALID_AMOUNT
    assert await outcome(books.granted, books.ann, MAX_AMOUNT - 100) is Outcome.POSTED  # granted is at the largest
    assert await outcome(revenue, books.bob, MAX_AMOUNT - 100) is Outcome.POSTED  # and bob
    assert await outcome(revenue, books.ann, 101) is Outcome.INVALID_AMOUNT
    assert await outcome(revenue, books.ann, 100) is Outcome.POSTED  # and revenue at the least


@pytest.mark.parametrize("beside", ["alone", "beside a repeat"])
async def test_a_journal_has_a_thousand_legs_at_most_and_a_key_255_characters(
    db: asyncpg.Connection, books: Books, beside: str
) -> None:
    """Of more the sum may be beyond bigint; that refuses nobody else."""
    wallets = await store.ensure_accounts(db, [(f"user-{number}", "wallet") for number in range(1_100)])
    repeat = [books.grant] * (beside != "alone")

    async def outcome(legs: int, tokens: int) -> Outcome:
        paid = tuple(credit(wallet, tokens) for wallet in wallets[: legs - 1])
        taken = debit(books.granted, min(tokens * (legs - 1), 999))
        journal = Journal("k" * 255, TransactionType.GRANT, (taken, *paid))
        return (await store.post(db, [*repeat, journal], actor="test"))[-1].outcome

    assert await outcome(1_100, MAX_AMOUNT) is Outcome.INVALID_JOURNAL
    assert await outcome(1_001, 1) is Outcome.INVALID_JOURNAL
    assert await outcome(1_000, MAX_AMOUNT) is Outcome.UNBALANCED
    assert await outcome(1_000, 1) is Outcome.POSTED


async def test_a_journal_without_a_type_is_none_and_leaves_its_neighbour(db: asyncpg.Connection, books: Books) -> None:
    rows = await db.fetch(
        "SELECT outcome FROM ledger_post(ARRAY['a', 'b'], ARRAY[NULL, 'adjustment']::transaction_type[],"
        " ARRAY[NULL, NULL]::jsonb[], ARRAY[1, 1, 2, 2], $1::bigint[], ARRAY[5, -5, 5, -5]::bigint[], 'test')",
        [books.ann, books.bob, books.ann, books.bob],
    )
    assert [row["outcome"] for row in rows] == ["invalid_journal", "posted"]


async def test_a_refused_journal_answers_what_it_found_where_an_account_is_unknown(
    db: asyncpg.Connection, books: Books
) -> None:
    first = Journal("first", TransactionType.ADJUSTMENT, (debit(books.ann, 30), credit(books.bob, 30)))
    bad = Journal("bad", TransactionType.ADJUSTMENT, (credit(999_999, 1), debit(books.ann, 1)))
    _, posting = await store.post(db, [first, bad], actor="test")
    assert posting.legs == (PostedLeg(999_999, None, None), PostedLeg(books.ann, 70, 2))


async def test_who_does_not_ask_for_outcomes_posts_and_repeats_like_anybody(
    db: asyncpg.Connection, books: Books
) -> None:
    good = Journal("good", TransactionType.ADJUSTMENT, (debit(books.ann, 1), credit(books.bob, 1)))
    rows = await db.fetch(POST_OR_RAISE, *arguments(good, books.grant))
    assert [row["outcome"] for row in rows] == ["posted", "duplicate"]


async def test_arrays_that_do_not_fit_each_other_are_an_error_of_the_caller(
    db: asyncpg.Connection, books: Books
) -> None:
    good = arguments(Journal("good", TransactionType.ADJUSTMENT, (debit(books.ann, 1), credit(books.bob, 1))))
    for place, wrong in (
        (1, []),
        (2, []),
        (3, [1]),
        (3, [1, 2]),
        (3, [0, 1]),
        (3, [1, None]),
        (4, [books.ann]),
        (5, []),
    ):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await db.fetch(POST_OR_RAISE, *good[:place], wrong, *good[place + 1 :])


async def test_legs_are_answered_in_the_order_they_were_given_in(db: asyncpg.Connection, books: Books) -> None:
    """Whatever the order of their accounts, and of the journals they are of."""
    rows = await db.fetch(
        "SELECT ordinal, outcome, accounts, balances FROM ledger_post(ARRAY['a', 'b'],"
        " array_fill('adjustment'::transaction_type, ARRAY[2]), array_fill('{}'::jsonb, ARRAY[2]),"
        " ARRAY[2, 1, 2, 1], $1::bigint[], ARRAY[-5, -10, 5, 10]::bigint[], 'test')",
        [books.ann, books.bob, books.bob, books.ann],
    )
    assert [tuple(row) for row in rows] == [
        (1, "posted", [books.bob, books.ann], [10, 90]),
        (2, "posted", [books.ann, books.bob], [95, 5]),
    ]


def arguments(*journals: Journal) -> list[Any]:
    """As store.post hands them over."""
    legs = [(ordinal, leg) for ordinal, journal in enumerate(journals, start=1) for leg in journal.legs]
    bigint_max = 2**63 - 1
    return [
        [journal.key for journal in journals],
        [journal.type for journal in journals],
        ["{}" for _ in journals],
        [ordinal for ordinal, _ in legs],
        [leg.account_id for _, leg in legs],
        [max(-bigint_max, min(bigint_max, leg.amount)) for _, leg in legs],
    ]


async def test_a_nul_in_what_is_said_is_invalid_and_the_six_characters_json_writes_for_one_are_kept(
    db: asyncpg.Connection, books: Books
) -> None:
    def saying(key: str, reason: str) -> Journal:
        legs = (debit(books.ann, 1), credit(books.bob, 1))
        return Journal(key, TransactionType.ADJUSTMENT, legs, {"reason": reason})

    said = ["a\\u0000b", "\\\\u0000", "a\0b", "\\\0", "\\\\\0"]
    postings = await store.post(db, [saying(str(n), reason) for n, reason in enumerate(said)], actor="test")
    assert [posting.outcome for posting in postings] == [Outcome.POSTED] * 2 + [Outcome.INVALID_JOURNAL] * 3
