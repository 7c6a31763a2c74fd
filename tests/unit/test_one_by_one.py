"""Calls billed or ended one by one: which of those that cannot be stop the round."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from realtime.services.one_by_one import one_by_one

CALLS = [UUID(int=number) for number in range(6)]
HELD, REFUSED, AWAY = asyncpg.LockNotAvailableError, asyncpg.RaiseError, asyncpg.AdminShutdownError


async def done_with(*troubles: type[Exception] | None) -> tuple[list[int], type[Exception] | None]:
    """Which calls had their turn where each meets its trouble, and what ended the round."""
    had: list[int] = []

    async def step(call_id: UUID) -> None:
        had.append(call_id.int)
        if (trouble := troubles[call_id.int]) is not None:
            raise trouble

    try:
        await one_by_one(CALLS, step, refused="refused", held="held")
    except Exception as error:
        return had, type(error)
    return had, None


@pytest.mark.parametrize(
    "troubles",
    [
        pytest.param((REFUSED, REFUSED, REFUSED, REFUSED, None, None), id="many refused"),
        pytest.param((HELD, HELD, None, HELD, HELD, None), id="two held, and two again"),
        pytest.param((HELD, HELD, REFUSED, HELD, HELD, None), id="one refused between those that are held"),
    ],
)
async def test_every_call_has_its_turn_whichever_cannot_be(troubles: tuple[type[Exception] | None, ...]) -> None:
    assert await done_with(*troubles) == ([0, 1, 2, 3, 4, 5], None)


async def test_three_held_in_a_row_end_the_round_for_what_they_share_is_held() -> None:
    assert await done_with(None, HELD, HELD, HELD, None, None) == ([0, 1, 2, 3], HELD)


async def test_a_database_that_goes_away_ends_the_round_at_once() -> None:
    assert await done_with(None, AWAY, None, None, None, None) == ([0, 1], AWAY)
