"""The program on its event loop, uvloop's where there is one: `asyncio.run` that no task can keep from ending.

What is left when the program ends is cancelled. Some take that for a failure of what they were at, and go on: so do the
workers of the jobs' pool, psycopg's, where a second signal meets them while they connect. `asyncio.run` would wait for
them without an end, and by then signals are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from ledger.end_signals import Ended

LEFT_AFTER_S = 2.0
"""What was cancelled has so long to end; what has not by then is left as it is, and ends with the process."""

Program = Callable[[], Coroutine[Any, Any, None]]


def run(program: Program) -> None:
    """Raises what the program raises, or a signal's handler meanwhile."""
    loop = _new_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(program())
    except Ended:
        _say_no_more(loop)  # whatever was interrupted: what became of it is no news
        raise
    finally:
        _close(loop)
        asyncio.set_event_loop(None)


def _new_loop() -> asyncio.AbstractEventLoop:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415  (not to be had everywhere)

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _say_no_more(loop: asyncio.AbstractEventLoop) -> None:
    """Of tasks that end by an error, or are destroyed while they wait."""
    loop.set_exception_handler(lambda _loop, _met: None)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left and loop.run_until_complete(asyncio.wait(left, timeout=LEFT_AFTER_S))[1]:
        _say_no_more(loop)
        return
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
