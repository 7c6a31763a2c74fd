"""A run that ends: by itself, by Ctrl-C or SIGTERM, or when its time is over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Why there is no result, for people to read."""


async def bounded(run: Coroutine[Any, Any, T], bound_s: float) -> T:
    """What `run` answers. A signal cancels it, so that it can clean up; raises Stopped after `bound_s`."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(bound_s):
            return await run
    except TimeoutError:
        raise Stopped(f"not done within {bound_s:.0f} s") from None
