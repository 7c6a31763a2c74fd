"""The purchase's state machine, every state with every event, and what refunds and disputes take back."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.domain.purchase import (
    TRANSITIONS,
    Effect,
    Event,
    NotPossible,
    Purchase,
    Reversal,
    Status,
    decide,
    diagram,
    reversal,
    shares,
    tokens_for,
)


def a_purchase(status: Status = Status.PREPARED, **changes: Any) -> Purchase:
    purchase = Purchase(
        id=UUID(int=1),
        user_id="ann",
        idempotency_key="k",
        amount_cents=1000,
        tokens=1000,
        payment_method_id="pm_1",
        status=status,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        spend_day=date(2026, 1, 1),
        payment_intent_id=None if status is Status.CLAIMED else "pi_1",
    )
    return replace(purchase, **changes)


UNFINISHED = (Status.PREPARED, Status.REQUIRES_ACTION, Status.PROCESSING)
OF_THE_PROVIDER = {
    Event.SUCCEEDED: (Status.SUCCEEDED, {Effect.CREDIT}),
    Event.ACTION_REQUIRED: (Status.REQUIRES_ACTION, set()),
    Event.PROCESSING: (Status.PROCESSING, set()),
    Event.DECLINED: (Status.FAILED, {Effect.RELEASE_ALLOWANCE, Effect.CANCEL_PAYMENT}),
    Event.CANCELLED: (Status.FAILED, {Effect.RELEASE_ALLOWANCE}),
}
EXPECTED = {(status, event): outcome for status in UNFINISHED for event, outcome in OF_THE_PROVIDER.items()} | {
    (Status.CLAIMED, Event.PREPARED): (Status.PREPARED, set()),
    (Status.CLAIMED, Event.CANCELLED): (Status.FAILED, {Effect.RELEASE_ALLOWANCE}),
    (Status.FAILED, Event.SUCCEEDED): (Status.SUCCEEDED, {Effect.RETAKE_ALLOWANCE, Effect.CREDIT}),
}
UNCHANGED = {
    (status, event)
    for status, event in itertools.product((*UNFINISHED, Status.SUCCEEDED, Status.FAILED), Event)
    if (status, event) not in EXPECTED and event is not Event.PREPARED
}
IMPOSSIBLE = set(itertools.product(Status, Event)) - EXPECTED.keys() - UNCHANGED


def test_the_table_is_what_is_expected_of_it() -> None:
    assert {(s, e) for s, events in TRANSITIONS.items() for e in events} == EXPECTED.keys()


@pytest.mark.parametrize(("status", "event"), EXPECTED, ids=str)
def test_a_listed_event_leads_to_its_state_and_effects(status: Status, event: Event) -> None:
    decision = decide(a_purchase(status), event, failure="declined", decline_code="stolen_card")
    assert (decision.purchase.status, set(decision.effects)) == EXPECTED[status, event]
    failed = decision.purchase.status is Status.FAILED
    assert (decision.purchase.failure is not None) == failed


@pytest.mark.parametrize(("status", "event"), sorted(UNCHANGED), ids=str)
def test_an_event_that_comes_late_or_twice_changes_nothing(status: Status, event: Event) -> None:
    purchase = a_purchase(status)
    assert decide(purchase, event, failure="late") == decide(purchase, event)
    assert decide(purchase, event).purchase == purchase
    assert decide(purchase, event).effects == ()


@pytest.mark.parametrize(("status", "event"), sorted(IMPOSSIBLE), ids=str)
def test_an_event_that_cannot_be_is_refused(status: Status, event: Event) -> None:
    with pytest.raises(NotPossible):
        decide(a_purchase(status), event)


def test_every_way_into_failure_gives_the_allowance_back_and_every_success_credits() -> None:
    for events in TRANSITIONS.values():
        for transition in events.values():
            assert (transition.status is Status.FAILED) == (Effect.RELEASE_ALLOWANCE in transition.effects)
            assert (transition.status is Status.SUCCEEDED) == (Effect.CREDIT in transition.effects)


cents = st.integers(50, 1_000_000)


@given(cents, st.integers(1, 10_000))
def test_tokens_never_cost_less_than_their_price(amount_cents: int, tokens_per_usd: int) -> None:
    tokens = tokens_for(amount_cents, tokens_per_usd)
    assert tokens * 100 <= amount_cents * tokens_per_usd < (tokens + 1) * 100


@given(cents, st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(0, 2_000_000)), max_size=8), st.data())
def test_reversals_follow_the_figures_and_lose_no_token(
    amount_cents: int, course: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whatever refunds and disputes say, and whatever is spent in between: wallet + owed is all that was taken."""
    purchase = a_purchase(Status.SUCCEEDED, amount_cents=amount_cents, tokens=tokens_for(amount_cents, 7) or 1)
    wallet = purchase.tokens
    for refunded, disputed in [*course, (amount_cents, 0)]:
        wallet -= data.draw(st.integers(0, wallet))
        purchase = replace(purchase, refunded_cents=refunded, disputed_cents=disputed)
        due = reversal(purchase)
        parts = shares(purchase, due, wallet)
        assert parts.wallet_tokens + parts.owed_tokens == due.tokens
        wallet -= parts.wallet_tokens
        purchase = replace(
            purchase,
            reversed_cents=purchase.reversed_cents + due.cents,
            reversed_tokens=purchase.reversed_tokens + due.tokens,
            owed_tokens=purchase.owed_tokens + parts.owed_tokens,
        )
        assert wallet >= 0
        assert 0 <= purchase.owed_tokens <= purchase.reversed_tokens <= purchase.tokens
        assert 0 <= purchase.reversed_cents <= amount_cents
        assert reversal(purchase) == Reversal(0, 0)
    assert purchase.reversed_tokens == purchase.tokens


async def test_the_database_allows_the_tables_moves_and_no_other(db: Any) -> None:
    moves = {(s, t.status) for s, events in TRANSITIONS.items() for t in events.values() if s is not t.status}
    for number, (before, after) in enumerate(itertools.product(Status, Status)):
        if before is after:
            continue
        purchase_id = UUID(int=number)
        finished = "now()" if before.finished else "NULL"
        await db.execute(
            "INSERT INTO purchases (id, user_id, idempotency_key, amount_cents, tokens, payment_method_id, status,"
            f" spend_day, payment_intent_id, next_check_at, finished_at) VALUES ($1, 'ann', 'k', 5, 5, 'pm', $2::text::"
            f"purchase_status, now(), $3, now(), {finished})",
            purchase_id, before.value, f"pi_{number}",
        )  # fmt: skip
        try:
            async with db.transaction():
                await db.execute(
                    "UPDATE purchases SET status = $2::text::purchase_status,"
                    " finished_at = CASE WHEN $2::text IN ('succeeded', 'failed') THEN now() END WHERE id = $1",
                    purchase_id,
                    after.value,
                )
            allowed = True
        except Exception as error:
            assert getattr(error, "sqlstate", None) == "CM301", error  # noqa: PT017
            allowed = False
        assert allowed == ((before, after) in moves), (before, after)


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    architecture = Path(__file__).parents[2] / "docs" / "architecture.md"
    assert diagram() in architecture.read_text()
