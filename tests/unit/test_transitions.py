"""The call's state machine, every state with every event."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from realtime.domain import errors
from realtime.domain.call import AGORA_UID, Call, Effect, Role, Terms, decide, end_event_for, settlement
from realtime.domain.transitions import TRANSITIONS, EndReason, Event, Status, diagram

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
TERMS = Terms(rate_tokens_per_period=10, fee_percent=20, period_s=60, grace_s=10, refund_unused_seconds=False)


def a_call(status: Status = Status.RINGING, **changes: object) -> Call:
    call = Call(
        id=UUID(int=1),
        caller_id="ann",
        callee_id="bob",
        request_id="r",
        terms=TERMS,
        status=Status.RINGING,
        created_at=NOW,
        ring_expires_at=NOW + timedelta(seconds=45),
    )
    if status is not Status.RINGING:
        call = replace(call, status=status, started_at=NOW, paid_through=NOW + timedelta(seconds=60), periods_billed=1)
    if status is Status.ENDED:
        call = replace(call, ended_at=NOW, end_reason=EndReason.HANGUP)
    return replace(call, **changes)  # type: ignore[arg-type]


EXPECTED = {
    (Status.RINGING, Event.ACCEPTED): (Status.ACTIVE, None),
    (Status.RINGING, Event.DECLINED): (Status.ENDED, EndReason.DECLINED),
    (Status.RINGING, Event.CANCELLED): (Status.ENDED, EndReason.CANCELLED),
    (Status.RINGING, Event.RANG_OUT): (Status.ENDED, EndReason.MISSED),
    (Status.RINGING, Event.PARTY_VANISHED): (Status.ENDED, EndReason.DISCONNECTED),
    (Status.ACTIVE, Event.HUNG_UP): (Status.ENDED, EndReason.HANGUP),
    (Status.ACTIVE, Event.FUNDS_RAN_OUT): (Status.ENDED, EndReason.INSUFFICIENT_FUNDS),
    (Status.ACTIVE, Event.PARTY_VANISHED): (Status.ENDED, EndReason.DISCONNECTED),
    (Status.ACTIVE, Event.TOKEN_OUTLIVED): (Status.ENDED, EndReason.FAILED),
    (Status.ACTIVE, Event.BILLING_FAILED): (Status.ENDED, EndReason.FAILED),
}
REFUSED = {
    (Status.RINGING, Event.HUNG_UP): errors.CallNotAnswered,
    (Status.RINGING, Event.FUNDS_RAN_OUT): errors.CallNotAnswered,
    (Status.RINGING, Event.TOKEN_OUTLIVED): errors.CallNotAnswered,
    (Status.RINGING, Event.BILLING_FAILED): errors.CallNotAnswered,
    (Status.ACTIVE, Event.ACCEPTED): errors.CallAlreadyAnswered,
    (Status.ACTIVE, Event.DECLINED): errors.CallAlreadyAnswered,
    (Status.ACTIVE, Event.CANCELLED): errors.CallAlreadyAnswered,
    (Status.ACTIVE, Event.RANG_OUT): errors.CallNotAnswered,
    (Status.ENDED, Event.ACCEPTED): errors.CallEnded,
    (Status.ENDED, Event.RANG_OUT): errors.CallEnded,
    (Status.ENDED, Event.FUNDS_RAN_OUT): errors.CallEnded,
    (Status.ENDED, Event.PARTY_VANISHED): errors.CallEnded,
    (Status.ENDED, Event.TOKEN_OUTLIVED): errors.CallEnded,
    (Status.ENDED, Event.BILLING_FAILED): errors.CallEnded,
}
UNCHANGED = {(Status.ENDED, event) for event in (Event.DECLINED, Event.CANCELLED, Event.HUNG_UP)}


def test_every_state_and_event_is_spoken_for_in_these_tests() -> None:
    every = set(itertools.product(Status, Event))
    assert EXPECTED.keys() | REFUSED.keys() | UNCHANGED == every
    assert {(s, e) for s, events in TRANSITIONS.items() for e in events} == EXPECTED.keys()


@pytest.mark.parametrize(("status", "event"), EXPECTED, ids=str)
def test_a_listed_event_leads_to_its_state(status: Status, event: Event) -> None:
    decision = decide(a_call(status), event, NOW + timedelta(seconds=5))
    assert (decision.call.status, decision.call.end_reason) == EXPECTED[status, event]
    assert (Effect.BILL_FIRST_PERIOD in decision.effects) == (decision.call.status is Status.ACTIVE)


@pytest.mark.parametrize(("status", "event"), REFUSED, ids=str)
def test_an_unlisted_event_is_refused_by_name(status: Status, event: Event) -> None:
    with pytest.raises(REFUSED[status, event]):
        decide(a_call(status), event, NOW)


@pytest.mark.parametrize(("status", "event"), sorted(UNCHANGED), ids=str)
def test_ending_an_ended_call_answers_it_as_it_is(status: Status, event: Event) -> None:
    call = a_call(status)
    decision = decide(call, event, NOW + timedelta(hours=1))
    assert decision.call == call
    assert decision.effects == ()


def test_an_answer_starts_the_clock_with_nothing_paid_and_asks_for_the_first_period() -> None:
    answered = decide(a_call(), Event.ACCEPTED, NOW + timedelta(seconds=3))
    assert answered.call.started_at == answered.call.paid_through == NOW + timedelta(seconds=3)
    assert answered.call.periods_billed == 0
    assert Effect.BILL_FIRST_PERIOD in answered.effects


@pytest.mark.parametrize("event", [Event.FUNDS_RAN_OUT, Event.TOKEN_OUTLIVED, Event.BILLING_FAILED])
def test_an_unpaid_end_is_dated_where_the_paid_time_ends_and_puts_both_out(event: Event) -> None:
    call = a_call(Status.ACTIVE)
    decision = decide(call, event, NOW + timedelta(hours=2))
    assert decision.call.ended_at == call.paid_through
    assert Effect.PUT_OUT in decision.effects


def test_hanging_up_ends_the_call_now_and_leaves_the_channel_to_the_tabs() -> None:
    decision = decide(a_call(Status.ACTIVE), Event.HUNG_UP, NOW + timedelta(seconds=7))
    assert decision.call.ended_at == NOW + timedelta(seconds=7)
    assert Effect.PUT_OUT not in decision.effects
    assert Effect.SETTLE not in decision.effects


def test_a_hang_up_noticed_after_the_paid_time_is_not_dated_back() -> None:
    decision = decide(a_call(Status.ACTIVE), Event.HUNG_UP, NOW + timedelta(seconds=61))
    assert decision.call.ended_at == NOW + timedelta(seconds=61)


def test_the_two_sides_have_uids_of_their_own_that_agora_takes() -> None:
    assert AGORA_UID == {Role.CALLER: 1, Role.CALLEE: 2}, "0 would let Agora choose one, and a kick names nobody by it"


def test_by_the_second_the_unused_rest_of_the_last_period_is_settled_and_nobody_stays_in_the_channel_for_it() -> None:
    call = a_call(Status.ACTIVE, terms=replace(TERMS, refund_unused_seconds=True))
    decision = decide(call, Event.HUNG_UP, NOW + timedelta(seconds=30))
    assert decision.effects == (Effect.SETTLE, Effect.PUT_OUT)
    assert settlement(decision.call).tokens == 5


def test_end_while_ringing_is_the_callers_cancel_and_the_callees_decline() -> None:
    assert end_event_for(a_call(), Role.CALLER) is Event.CANCELLED
    assert end_event_for(a_call(), Role.CALLEE) is Event.DECLINED
    assert end_event_for(a_call(Status.ACTIVE), Role.CALLER) is Event.HUNG_UP


def test_a_strangers_call_is_one_that_is_not_there() -> None:
    with pytest.raises(errors.NotFound):
        a_call().role_of("eve")


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    architecture = Path(__file__).parents[2] / "docs" / "architecture.md"
    assert diagram() in architecture.read_text()
