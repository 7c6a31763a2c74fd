"""A backend that ends calls through the API: nobody talks for longer than they allowed themselves.

JWT_SECRET=… python examples/end_long_calls.py 3600 ann cleo

Looks every second at the calls of these users and ends those older than so many seconds. It signs their tokens as
your application does when they sign in: a JWT with `sub` and `exp` under the secret the server knows. Needs PyJWT.
The server is CALLMETER_URL, http://127.0.0.1:8080 unless set.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from datetime import UTC, datetime
from typing import Any

import jwt

URL = os.environ.get("CALLMETER_URL", "http://127.0.0.1:8080")


def token_of(user: str) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 60}, os.environ["JWT_SECRET"], algorithm="HS256")


def ask(user: str, method: str, path: str) -> dict[str, Any]:
    request = urllib.request.Request(URL + path, method=method, headers={"Authorization": f"Bearer {token_of(user)}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def end_long_calls(user: str, longest_s: float) -> None:
    """A user is in one call at a time, and the newest comes first."""
    for call in ask(user, "GET", "/api/v1/calls?limit=1")["items"]:
        if call["status"] != "active":
            continue
        age_s = (datetime.now(UTC) - datetime.fromisoformat(call["startedAt"])).total_seconds()
        if age_s > longest_s:
            # The same as a hang-up in the browser; ending a call that has ended meanwhile changes nothing.
            ended = ask(user, "POST", f"/api/v1/calls/{call['id']}/end")["call"]
            print(f"{user}: ended {ended['id']} after {age_s:.0f} s, {ended['tokensSpent']} tokens", flush=True)


if __name__ == "__main__":
    longest_s, users = float(sys.argv[1]), sys.argv[2:]
    while True:
        for user in users:
            end_long_calls(user, longest_s)
        time.sleep(1)
