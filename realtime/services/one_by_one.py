"""Live calls that must each be billed or ended, where one that cannot be keeps the others from nothing.

What PostgreSQL refuses of a call is reported, and tried again in the next round; the others go on. A call a row of
which somebody holds has cost its wait already (`lock_timeout`): after several in a row it is taken that what they share
is held, the platform's account, and the round is given up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

import structlog

from realtime.adapters.postgres import ROW_HELD, STATEMENT_REFUSED, UNREACHABLE

log = structlog.get_logger()

HELD_IN_A_ROW = 3


async def one_by_one(
    call_ids: Iterable[UUID], step: Callable[[UUID], Awaitable[None]], *, refused: str, held: str
) -> None:
    """Take `step` for each call; `refused` and `held` are what the log says of one PostgreSQL refuses, or holds up.

    Raises what says that PostgreSQL is away (`UNREACHABLE`), and `ROW_HELD` after `HELD_IN_A_ROW` calls.
    """
    held_in_a_row = 0
    for call_id in call_ids:
        try:
            await step(call_id)
        except ROW_HELD:
            log.warning(held, call_id=str(call_id))
            held_in_a_row += 1
            if held_in_a_row == HELD_IN_A_ROW:
                raise
            continue
        except UNREACHABLE:
            raise
        except STATEMENT_REFUSED:
            log.exception(refused, call_id=str(call_id))
        held_in_a_row = 0
