"""The servers that `fanout` compares: each does the same with its own library, as that library's users would.

`web` serves tabs: one that connects enters the rooms it names. `emitter` has no tabs and emits through Redis. Both are
told what to send by lines on their standard input (`scripts.tabs.children`); Node's is in scripts/node/server.mjs.

    ready                               the port
    broadcast  {count, first}           `count` messages to the room "all"
    rooms      {users, rounds, first}   `rounds` times one message to the room of each user, in batches
    received                            messages that came from Redis, where the server counts them
"""

from __future__ import annotations

from typing import Any

BATCH = 500
"""Messages between two turns of the event loop: what the meter bills at once."""
EVERYBODY = "all"


def push(version: int) -> dict[str, Any]:
    """What a paid period tells a tab."""
    return {
        "balance": 1_000_000 - 10 * version,
        "version": version,
        "delta": -10,
        "reason": "call_debit",
        "callId": "0197e5a2-7c1e-7d43-9d0f-5b8c3f6a2e10",
        "queryKey": ["tokenBalance"],
    }
