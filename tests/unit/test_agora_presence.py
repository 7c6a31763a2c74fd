"""Presence from notifications that come late, twice and out of order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.domain.agora_presence import (
    REMEMBERED_AFTER_LEAVE_S,
    Effect,
    Ignored,
    Joined,
    Left,
    Presence,
    UserEvent,
    Why,
    forgettable,
    observe,
)

AT = 1_760_000_000


def join(seq: int | None, *, channel: str = "call_1", uid: int = 1) -> UserEvent:
    return UserEvent(channel, uid, seq, in_channel=True, at=AT + (seq or 0))


def leave(seq: int | None, reason: int | None = 1, *, channel: str = "call_1", uid: int = 1) -> UserEvent:
    return UserEvent(channel, uid, seq, in_channel=False, at=AT + (seq or 0), reason=reason)


def observe_all(events: Iterable[UserEvent]) -> tuple[dict[tuple[str, int], Presence], list[tuple[UserEvent, Effect]]]:
    """What a store would hold after these, and what each was made of."""
    stored: dict[tuple[str, int], Presence] = {}
    effects = []
    for event in events:
        state, effect = observe(stored.get((event.channel, event.uid)), event)
        if state is not None:
            stored[event.channel, event.uid] = state
        effects.append((event, effect))
    return stored, effects


def effects_of(*events: UserEvent) -> list[Effect]:
    return [effect for _, effect in observe_all(events)[1]]


def test_a_join_and_a_leave_are_told_once_each():
    assert effects_of(join(1), leave(2)) == [Joined(), Left(1, certain=True)]


def test_the_same_notification_again_changes_nothing():
    stale = Ignored(Why.STALE)
    assert effects_of(join(1), join(1), leave(2), leave(2), join(1)) == [
        Joined(),
        stale,
        Left(1, certain=True),
        stale,
        stale,
    ]


def test_a_join_that_comes_after_its_leave_does_not_bring_the_user_back():
    assert effects_of(leave(2), join(1)) == [Left(1, certain=True), Ignored(Why.STALE)]


def test_a_leave_that_comes_after_the_next_join_does_not_put_the_user_out():
    stored, effects = observe_all([join(1), join(3), leave(2, 9)])
    assert [effect for _, effect in effects] == [Joined(), Ignored(Why.ALREADY_IN), Ignored(Why.STALE)]
    assert stored == {("call_1", 1): Presence(3, in_channel=True)}


def test_a_change_of_role_before_its_join_counts_as_being_there():
    change_of_role = UserEvent("call_1", 1, 2, in_channel=True, at=AT)
    assert effects_of(change_of_role, join(1)) == [Joined(), Ignored(Why.STALE)]


def test_a_later_leave_is_told_although_the_user_is_out_as_its_reason_may_be_the_certain_one():
    assert effects_of(leave(2, 10), leave(4, 1)) == [Left(10, certain=False), Left(1, certain=True)]


@pytest.mark.parametrize(
    ("reason", "certain"),
    [
        (0, False),
        (1, True),
        (2, True),
        (3, True),
        (4, False),
        (5, False),
        (9, False),
        (10, False),
        (999, False),
        (77, False),
        (None, False),
    ],
)
def test_a_leave_is_certain_only_where_it_does_not_pass_by_itself(reason, certain):
    assert effects_of(join(1), leave(2, reason)) == [Joined(), Left(reason, certain)]


def test_an_event_without_a_number_has_no_place_in_the_history_and_is_ignored():
    assert observe(None, join(None)) == (None, Ignored(Why.UNNUMBERED))
    there = Presence(1, in_channel=True)
    assert observe(there, leave(None)) == (there, Ignored(Why.UNNUMBERED))


def test_the_health_check_touches_nothing():
    health_check = join(9, channel="test_webhook", uid=12121212)
    assert observe(None, health_check) == (None, Ignored(Why.HEALTH_CHECK))
    there = Presence(1, in_channel=True)
    assert observe(there, health_check) == (there, Ignored(Why.HEALTH_CHECK))


def test_a_leave_keeps_when_and_why():
    state, _ = observe(Presence(1, in_channel=True), leave(2, 3))
    assert state == Presence(2, in_channel=False, left_at=AT + 2, reason=3)


def test_who_left_is_remembered_for_a_minute_after_we_heard_of_it_and_who_is_there_for_good():
    left = Presence(2, in_channel=False, left_at=AT - 500, reason=1)
    assert not forgettable(left, stored_at=AT, now=AT + REMEMBERED_AFTER_LEAVE_S - 1)
    assert forgettable(left, stored_at=AT, now=AT + REMEMBERED_AFTER_LEAVE_S)
    assert not forgettable(Presence(2, in_channel=True), stored_at=AT, now=AT + 10**6)


def test_after_being_forgotten_a_user_may_count_from_the_start_again():
    assert observe(None, join(1))[1] == Joined()


@st.composite
def histories(draw: st.DrawFn) -> list[UserEvent]:
    """What happened to a few users in a few channels, each user's events numbered as they happened, with gaps."""
    history = []
    for channel in ("call_1", "call_2"):
        for uid in (1, 2):
            seq = 0
            for reason in draw(st.lists(st.sampled_from([None, 0, 1, 2, 3, 4, 5, 9, 10, 999, 12]), max_size=6)):
                seq += draw(st.integers(1, 3))
                history.append(
                    join(seq, channel=channel, uid=uid)
                    if reason is None
                    else leave(seq, reason, channel=channel, uid=uid)
                )
    return history


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[UserEvent], list[UserEvent]]:
    """A history, and one way for it to arrive: repeated, in any order, with health checks between."""
    history = draw(histories())
    repeats = draw(st.lists(st.sampled_from(history), max_size=10)) if history else []
    health_checks = [join(1, channel="test_webhook", uid=12121212), leave(2, channel="test_webhook", uid=12121212)]
    return history, draw(st.permutations([*history, *repeats, *health_checks]))


@given(deliveries())
def test_any_repetition_and_order_of_a_history_ends_in_the_same_state(delivery):
    history, arrived = delivery
    assert observe_all(arrived)[0] == observe_all(history)[0]


@given(deliveries())
def test_whoever_believes_the_effects_alone_ends_with_the_truth(delivery):
    history, arrived = delivery
    believed: dict[tuple[str, int], bool] = {}
    reasons: dict[tuple[str, int], int | None] = {}
    for event, effect in observe_all(arrived)[1]:
        match effect:
            case Joined():
                believed[event.channel, event.uid] = True
            case Left(reason):
                believed[event.channel, event.uid] = False
                reasons[event.channel, event.uid] = reason
    last = {(event.channel, event.uid): event for event in history}
    assert believed == {key: event.in_channel for key, event in last.items()}
    for key, event in last.items():
        assert event.in_channel or reasons[key] == event.reason


@given(deliveries())
def test_each_event_has_at_most_one_effect(delivery):
    _, arrived = delivery
    told = [event for event, effect in observe_all(arrived)[1] if not isinstance(effect, Ignored)]
    assert len(told) == len(set(told))


@given(deliveries())
def test_the_number_last_seen_never_goes_back(delivery):
    stored: dict[tuple[str, int], Presence] = {}
    for event in delivery[1]:
        key = event.channel, event.uid
        state, _ = observe(stored.get(key), event)
        if state is not None:
            assert key not in stored or state.client_seq >= stored[key].client_seq
            stored[key] = state
