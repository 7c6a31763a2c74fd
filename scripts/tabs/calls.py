"""Calls: users in pairs ring, answer, are metered for a while and hang up, again and again."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import uuid4

import aiohttp

from scripts.tabs.crowd import Crowd
from scripts.tabs.users import Expected, User

PURSE_TOKENS = 100_000
HEARD_WITHIN_S = 10.0
PAUSE_S = 0.5
GRANTS_AT_ONCE = 16


async def run(crowd: Crowd, *, seconds: float, call_s: float) -> None:
    """Let each pair call for `seconds`, a call lasting about `call_s`."""
    able = [user for user in crowd.users if user.tabs]
    pairs = list(zip(able[::2], able[1::2], strict=False))
    room = asyncio.Semaphore(GRANTS_AT_ONCE)

    async def fund(caller: User) -> None:
        async with room:
            try:
                await crowd.credentials.grant(caller.name, PURSE_TOKENS)
            except (RuntimeError, aiohttp.ClientError, OSError, TimeoutError) as error:
                crowd.failures[str(error) or type(error).__name__] += 1

    await asyncio.gather(*(fund(caller) for caller, _ in pairs))
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_call_on(crowd, caller, callee, until, call_s) for caller, callee in pairs))


async def _call_on(crowd: Crowd, caller: User, callee: User, until: float, call_s: float) -> None:
    await asyncio.sleep(random.uniform(0, PAUSE_S + call_s))  # pairs that begin together would stay together
    while time.perf_counter() < until and caller.open_tabs() and callee.open_tabs():
        try:
            await _call(crowd, caller, callee, min(call_s, max(0.0, until - time.perf_counter())))
            crowd.done["calls"] += 1
        except (Refused, ConnectionError) as refused:
            crowd.failures[str(refused)] += 1
        except TimeoutError:
            crowd.failures["not heard of in time"] += 1
        caller.expected.clear()
        callee.expected.clear()
        await asyncio.sleep(PAUSE_S)


class Refused(Exception):
    """The server's answer was not ok."""


async def _call(crowd: Crowd, caller: User, callee: User, call_s: float) -> None:
    rings = callee.expect("call:incoming")
    call_id = (await _ask(caller, "call:start", {"calleeId": callee.name, "requestId": uuid4().hex}))["call"]["id"]
    await _heard(rings)
    answered = [user.expect("call:accepted") for user in (caller, callee)]
    await _ask(callee, "call:accept", {"callId": call_id})
    ended = [user.expect("call:ended", now=False) for user in (caller, callee)]
    await _heard(*answered)
    await _ask(caller, "call:join", {"callId": call_id})
    await asyncio.wait([one.all_heard for one in ended], timeout=call_s)
    for one in ended:
        one.since = time.perf_counter()
    await _ask(caller, "call:end", {"callId": call_id})
    await _heard(*ended)


async def _ask(user: User, event: str, payload: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await asyncio.wait_for(user.tabs[0].ask(event, payload), HEARD_WITHIN_S)
    if not answer.get("ok"):
        raise Refused(f"{event}: {answer.get('error', {}).get('code')}")
    return answer


async def _heard(*expected: Expected) -> None:
    async with asyncio.timeout(HEARD_WITHIN_S):
        for one in expected:
            await one.all_heard
