"""The official JavaScript client, put through what it can do, by polling, upgrade and WebSocket alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from realtime.fanout import FanoutServer
from tests.fanout.conftest import ServeFanout
from tests.fanout.test_socketio_protocol import conforming
from tests.servers import JAVASCRIPT


def conversing(sio: FanoutServer) -> None:
    conforming(sio)

    async def ask_me(sid: str) -> None:
        async def ask() -> None:
            answer = await sio.call("question", b"\x01\x02", to=sid, timeout=30)
            await sio.emit("answered", answer, to=sid)

        sio.start_background_task(ask)

    async def throw_me_out(sid: str) -> None:
        await sio.disconnect(sid)

    sio.on("ask-me", ask_me)
    sio.on("throw-me-out", throw_me_out)


@pytest.mark.parametrize("transports", ["polling", "polling,websocket", "websocket"])
async def test_the_official_javascript_client_finds_everything_it_knows(
    serve_fanout: ServeFanout, javascript: None, transports: str
) -> None:
    server = await serve_fanout(conversing)
    node = await asyncio.create_subprocess_exec(
        "node", "conformance.mjs", server.url, transports, cwd=JAVASCRIPT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(node.communicate(), 60)
    assert node.returncode == 0
    seen: dict[str, Any] = json.loads(out)
    assert seen == {
        "auth": [{"token": "abc"}],
        "transport": "polling" if transports == "polling" else "websocket",
        "event": [1, "2", {"3": [True]}, None, "é🎈"],
        "binary": [["bytes", 1, 2, 3], {"deep": [["bytes", 4, 5]]}],
        "ack": "one",
        "binaryAck": ["bytes", 7, 7, 7],
        "long": True,
        "inOrder": True,
        "customAuth": [{"of": "custom"}],
        "customAck": "there",
        "mainGoesOn": "here",
        "unknownNamespace": "Invalid namespace",
        "serverAck": [{"got": ["bytes", 1, 2]}],
        "disconnect": "io server disconnect",
    }
    assert server.sio.stats().upgrades == (transports == "polling,websocket")
