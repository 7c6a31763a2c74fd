"""When a worker that ends is started again."""

from __future__ import annotations

from realtime.processes import LONGEST_PAUSE_S, SETTLED_AFTER_S, Worker, pause_before_restart_s


def test_the_first_short_life_is_followed_at_once_and_the_next_ones_by_ever_longer_pauses_up_to_a_bound() -> None:
    pauses = [pause_before_restart_s(short_lives) for short_lives in range(1, 9)]
    assert pauses == [0, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_long_life_makes_up_for_short_ones_before_it() -> None:
    worker = Worker(1, started_at=100.0, short_lives=5)
    worker.ended(now=100.0 + SETTLED_AFTER_S - 1)
    assert worker.short_lives == 6
    worker.ended(now=100.0 + SETTLED_AFTER_S)
    assert worker.short_lives == 0
    assert pause_before_restart_s(worker.short_lives) == 0
