"""A balance storm: grants to one user after the other, each heard of by all of the user's tabs.

A delivery lasts from the sending of the grant to the arrival of its `balance:update` in a tab, so the ledger's posting
is part of it.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from scripts.tabs.crowd import Crowd
from scripts.tabs.users import User

GRANTS_AT_ONCE = 64


async def run(crowd: Crowd, *, seconds: float, per_s: float) -> None:
    """Grant so often for so long, as far as the server keeps up."""
    started_at = time.perf_counter()
    pending: set[asyncio.Task[None]] = set()
    users = [user for user in crowd.users if user.tabs]
    number = skipped = 0
    while users and (now := time.perf_counter()) < started_at + seconds:
        if (early_s := started_at + number / per_s - now) > 0:
            await asyncio.sleep(early_s)
        user = users[(number + skipped) % len(users)]
        if user.busy or len(pending) >= GRANTS_AT_ONCE:
            skipped += user.busy
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            continue
        number += 1
        user.busy = True
        task = asyncio.create_task(_grant(crowd, user))
        pending.add(task)
        task.add_done_callback(pending.discard)
    if pending:
        await asyncio.wait(set(pending))


async def _grant(crowd: Crowd, user: User) -> None:
    newest = max((tab.versions.get(b"balance:update", 0) for tab in user.tabs), default=0)
    user.granted_at[max(user.version, newest) + 1] = started_at = time.perf_counter()
    try:
        user.version = await crowd.credentials.grant(user.name, 1)
    except (RuntimeError, aiohttp.ClientError, OSError, TimeoutError) as error:
        crowd.failures[str(error) or type(error).__name__] += 1
    else:
        crowd.done["grants"] += 1
        crowd.delivered("grant answered", time.perf_counter() - started_at)
    finally:
        user.busy = False
