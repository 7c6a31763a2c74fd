"""Properties of posting, on a real PostgreSQL: whatever is posted, however it is cut, ordered and raced."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import asyncpg
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import store
from ledger.database_url import DatabaseUrl
from ledger.journals import Journal, Leg, Outcome, TransactionType
from ledger.verify import prove
from tests.conftest import new_database
from tests.trying import examples

OWNERS = ("ann", "bob", "cat")
PLATFORM = ("granted_tokens", "platform_revenue", "stripe_clearing")
CONNECTIONS = 4
NOBODY = 999_999
numbers = itertools.count()

# An account by name: a wallet by its owner, or a kind of the platform's.
SPENDING = st.tuples(st.sampled_from(OWNERS), st.sampled_from([*OWNERS, "platform_revenue"]), st.integers(1, 60))
GRANTS = st.tuples(st.just("granted_tokens"), st.sampled_from(OWNERS), st.integers(1, 60))
MOVES = st.one_of(SPENDING, GRANTS)  # (debited, credited, amount); both the same account is invalid
NONSENSE = st.lists(
    st.tuples(st.sampled_from([*OWNERS, *PLATFORM, "nobody"]), st.sampled_from([-5, -3, 0, 1, 3, 5, 8])), max_size=4
)
LEGS = st.one_of(
    MOVES.map(lambda move: [(move[0], move[2]), (move[1], -move[2])]),
    SPENDING.map(lambda move: [(move[0], move[2] + 2), (move[1], -move[2]), ("granted_tokens", -2)]),
    NONSENSE,
)


class Books:
    """Connections to one ledger, and the accounts by the names above."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.url = url
        connect = DatabaseUrl.parse(url).for_asyncpg()
        self.conns = [self.run(asyncpg.connect(**connect)) for _ in range(CONNECTIONS)]
        self.conn = self.conns[0]

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    async def open(self) -> dict[str, int]:
        """New wallets, so that every example begins with nothing."""
        example = next(numbers)
        ids = await store.ensure_accounts(self.conn, [(f"{owner}-{example}", "wallet") for owner in OWNERS])
        platform = {kind: await store.platform_account(self.conn, kind) for kind in PLATFORM}
        return dict(zip(OWNERS, ids, strict=True)) | platform | {"nobody": NOBODY}

    def prove(self) -> None:
        with psycopg.connect(DatabaseUrl.parse(self.url).for_psycopg()) as conn:
            assert prove(conn).findings == ()

    async def balances(self, accounts: dict[str, int]) -> dict[str, tuple[int, int]]:
        rows = await self.conn.fetch(
            "SELECT id, balance, version FROM accounts WHERE id = ANY($1)", list(accounts.values())
        )
        by_id = {row["id"]: (row["balance"], row["version"]) for row in rows}
        return {name: by_id[number] for name, number in accounts.items() if number in by_id}

    def close(self) -> None:
        for conn in self.conns:
            self.run(conn.close())
        self.runner.close()


@pytest.fixture(scope="module")
def books(postgres_server_url: str, template_database: str) -> Iterator[Books]:
    for url in new_database(postgres_server_url, template_database):
        books = Books(url)
        yield books
        books.close()


def journal(accounts: dict[str, int], key: str, legs: Sequence[tuple[str, int]]) -> Journal:
    return Journal(key, TransactionType.ADJUSTMENT, tuple(Leg(accounts[name], amount) for name, amount in legs))


UNIT = {name: "USD_CENT" if name == "stripe_clearing" else "TOKEN" for name in [*OWNERS, *PLATFORM]}
DEBIT_NORMAL = {"granted_tokens", "stripe_clearing"}


class Model:
    """What posting means, in a page: the outcomes in their order, and balances."""

    def __init__(self) -> None:
        self.posted: dict[str, list[tuple[str, int]]] = {}
        self.balances: dict[str, int] = dict.fromkeys(UNIT, 0)
        self.versions: dict[str, int] = dict.fromkeys(UNIT, 0)

    def post(self, key: str, legs: list[tuple[str, int]]) -> Outcome:
        if key in self.posted:
            return Outcome.DUPLICATE if sorted(self.posted[key]) == sorted(legs) else Outcome.KEY_REUSED
        names = [name for name, _ in legs if name != "nobody"]
        if len(legs) < 2 or len(set(names)) < len(names):
            return Outcome.INVALID_JOURNAL
        if any(amount == 0 for _, amount in legs):
            return Outcome.INVALID_AMOUNT
        if "nobody" in dict(legs):
            return Outcome.UNKNOWN_ACCOUNT
        if any(sum(a for n, a in legs if UNIT[n] == unit) for unit in UNIT.values()):
            return Outcome.UNBALANCED if sum(amount for _, amount in legs) else Outcome.MIXED_UNITS
        after = {name: self.balances[name] + (amount if name in DEBIT_NORMAL else -amount) for name, amount in legs}
        if any(balance < 0 for name, balance in after.items() if name in OWNERS):
            return Outcome.INSUFFICIENT_FUNDS
        self.posted[key] = legs
        self.balances |= after
        for name in names:
            self.versions[name] += 1
        return Outcome.POSTED


@examples(70)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), LEGS), min_size=1, max_size=8), max_size=4))
def test_posting_agrees_with_its_model_and_conserves_every_unit(books: Books, batches: list[list[Any]]) -> None:
    accounts, model, example = books.run(books.open()), Model(), next(numbers)
    before = books.run(books.balances(accounts))
    for batch in batches:
        journals = [journal(accounts, f"{example}:{key}", legs) for key, legs in batch]
        postings = books.run(store.post(books.conn, journals, actor="test"))
        assert [posting.outcome for posting in postings] == [model.post(key, legs) for key, legs in batch]
    after = books.run(books.balances(accounts))
    for name, (balance, version) in after.items():
        assert (balance - before[name][0], version - before[name][1]) == (model.balances[name], model.versions[name])
    books.prove()


FUNDED = st.lists(MOVES, min_size=1, max_size=12)


@examples(70)
@given(moves=FUNDED, data=st.data())
def test_a_batch_posted_twice_split_or_reordered_makes_the_same_ledger(
    books: Books, moves: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    def ledger_of(cut: list[list[int]]) -> Any:
        """What the moves, posted in these batches by their numbers, come to with wallets that never run short."""
        accounts, example = books.run(books.open()), next(numbers)
        start = [journal(accounts, f"{example}:{o}", [("granted_tokens", 900), (o, -900)]) for o in OWNERS]
        legs = [[(debited, amount), (credited, -amount)] for debited, credited, amount in moves]
        journals = [journal(accounts, f"{example}:{number}", leg) for number, leg in enumerate(legs)]
        books.run(store.post(books.conn, start, actor="test"))
        before = books.run(books.balances(accounts))
        outcomes = set()
        for batch in cut:
            postings = books.run(store.post(books.conn, [journals[number] for number in batch], actor="test"))
            outcomes |= {posting.outcome for posting in postings}
        assert outcomes <= {Outcome.POSTED, Outcome.DUPLICATE, Outcome.INVALID_JOURNAL}
        after = books.run(books.balances(accounts))
        return {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in after}

    every = list(range(len(moves)))
    order = data.draw(st.permutations(every))
    twice = data.draw(st.permutations(every + every))
    place = data.draw(st.integers(0, len(moves)))
    once = ledger_of([every])
    assert ledger_of([every, every]) == once
    assert ledger_of([order]) == once
    assert ledger_of([order[:place], order[place:], twice]) == once
    assert ledger_of([twice]) == once


@examples(30)
@given(st.lists(st.lists(MOVES, min_size=1, max_size=5), min_size=2, max_size=CONNECTIONS * 3))
def test_whoever_races_no_wallet_goes_below_zero_and_no_version_is_left_out(
    books: Books, batches: list[list[tuple[str, str, int]]]
) -> None:
    accounts, example = books.run(books.open()), next(numbers)
    posted: list[tuple[str, str, int]] = []

    async def work(conn: asyncpg.Connection, mine: list[list[tuple[str, str, int]]], worker: int) -> None:
        for turn, moves in enumerate(mine):
            journals = [
                journal(accounts, f"{example}:{worker}:{turn}:{n}", [(debited, amount), (credited, -amount)])
                for n, (debited, credited, amount) in enumerate(moves)
            ]
            for move, posting in zip(moves, await store.post(conn, journals, actor="test"), strict=True):
                assert posting.outcome in {Outcome.POSTED, Outcome.INSUFFICIENT_FUNDS, Outcome.INVALID_JOURNAL}
                if posting.outcome is Outcome.POSTED:
                    posted.append(move)

    async def race() -> None:
        await asyncio.gather(*(work(conn, batches[n::CONNECTIONS], n) for n, conn in enumerate(books.conns)))

    books.run(race())
    for owner in OWNERS:
        number = accounts[owner]
        entries = books.run(
            books.conn.fetch(
                "SELECT version, balance_after FROM entries WHERE account_id = $1 ORDER BY journal_id", number
            )
        )
        assert [entry["version"] for entry in entries] == list(range(1, len(entries) + 1))
        assert all(entry["balance_after"] >= 0 for entry in entries)
        balance = sum(a * ((c == owner) - (d == owner)) for d, c, a in posted)
        assert (books.run(books.balances(accounts)))[owner] == (balance, len(entries))
    books.prove()
