"""A paid call from Python: one program for both sides.

python examples/paid_call.py bob            waits for a call and answers it
python examples/paid_call.py ann bob        ann rings bob, and talks until her wallet is empty or he hangs up

Needs python-socketio and aiohttp. The server is CALLMETER_URL, http://127.0.0.1:8080 unless set; a development server
gives anybody a token, in production it is your own application that signs it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from typing import Any

import aiohttp
import socketio

URL = os.environ.get("CALLMETER_URL", "http://127.0.0.1:8080")


async def development_token(user: str) -> str:
    async with aiohttp.ClientSession() as http, http.post(f"{URL}/dev/login", json={"userId": user}) as answer:
        return str((await answer.json())["token"])


async def talk(user: str, callee: str | None) -> None:
    tab = socketio.AsyncClient()
    ended = asyncio.Event()

    async def ask(event: str, **payload: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await tab.call(event, payload)
        return answer if answer["ok"] else sys.exit(f"{event}: {answer['error']['message']}")

    @tab.on("call:incoming")
    async def incoming(push: dict[str, Any]) -> None:
        if push["call"]["calleeId"] == user:  # the caller's tabs hear of it too when they connect while it rings
            print(f"{push['call']['callerId']} rings", flush=True)
            await enter(await ask("call:accept", callId=push["call"]["id"]))

    @tab.on("call:accepted")
    async def accepted(push: dict[str, Any]) -> None:
        if push["call"]["callerId"] == user:
            await enter(await ask("call:join", callId=push["call"]["id"]))

    async def enter(answer: dict[str, Any]) -> None:
        print(f"in channel {answer['agora']['channel']}, paid through {answer['call']['paidThrough']}", flush=True)

    @tab.on("balance:update")
    async def balance(push: dict[str, Any]) -> None:
        print(f"balance {push['balance']} ({push['reason']}, version {push['version']})", flush=True)

    @tab.on("earnings:update")
    async def earnings(push: dict[str, Any]) -> None:
        print(f"earned {push['delta']}, {push['balance']} in all", flush=True)

    @tab.on("call:ended")
    async def end(push: dict[str, Any]) -> None:
        call = push["call"]
        print(f"ended: {call['endReason']}, {call['periodsBilled']} periods, {call['tokensSpent']} tokens", flush=True)
        ended.set()

    await tab.connect(URL, auth={"token": await development_token(user)}, transports=["websocket"])
    print(f"{user} is online", flush=True)
    if callee:
        await ask("call:start", calleeId=callee, requestId=str(uuid.uuid4()))
    await ended.wait()
    await tab.disconnect()


if __name__ == "__main__":
    asyncio.run(talk(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
