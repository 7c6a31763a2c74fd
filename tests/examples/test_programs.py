"""The programs under examples/, as somebody would run them against a server of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.acceptance.test_paid_call import QUICK, answered_call, grant
from tests.servers import JWT_SECRET, PATIENCE_S, ROOT, Launch, Opens, Server, eventually


class Program:
    """An example that runs, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def says(self, text: str) -> None:
        await eventually(lambda: any(text in line for line in self.lines))

    async def ends(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), PATIENCE_S)
        await self._reading
        return code


Runs = Callable[..., Any]


@pytest.fixture
async def run() -> AsyncIterator[Runs]:
    """Run an example against a server; what a test leaves running is stopped after it."""
    programs: list[Program] = []

    async def start(server: Server, name: str, *arguments: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            sys.executable, ROOT / "examples" / name, *arguments,
            env={"PATH": os.environ["PATH"], "CALLMETER_URL": server.url, "JWT_SECRET": JWT_SECRET},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        programs.append(Program(process))
        return programs[-1]

    yield start
    for program in programs:
        with suppress(ProcessLookupError):
            program.process.kill()
        await program.ends()


async def test_the_python_client_rings_answers_and_sees_each_debit(
    launch: Launch, http: aiohttp.ClientSession, run: Runs
) -> None:
    server = launch(**QUICK)
    await grant(http, server, "ann", 30)
    bob = await run(server, "paid_call.py", "bob")
    await bob.says("bob is online")
    ann = await run(server, "paid_call.py", "ann", "bob")
    assert [await ann.ends(), await bob.ends()] == [0, 0], (ann.lines, bob.lines)
    for program in (ann, bob):
        assert "ended: insufficient_funds, 3 periods, 30 tokens" in program.lines
        assert sum(line.startswith("in channel call_") for line in program.lines) == 1
    assert [line for line in ann.lines if line.startswith("balance")] == [
        "balance 30 (snapshot, version 1)",
        "balance 20 (call_debit, version 2)",
        "balance 10 (call_debit, version 3)",
        "balance 0 (call_debit, version 4)",
    ]
    assert [line for line in bob.lines if line.startswith("earned")][-1] == "earned 8, 24 in all"


async def test_the_backend_ends_a_call_that_lasts_longer_than_allowed(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, run: Runs
) -> None:
    server = launch(**QUICK)
    await grant(http, server, "ann", 1000)
    ann, bob = await open_tab(server, "ann"), await open_tab(server, "bob")
    call_id = (await answered_call(ann, bob))["call"]["id"]
    backend = await run(server, "end_long_calls.py", "1", "ann", "cleo")
    await backend.says(f"ann: ended {call_id}")
    [ended] = await eventually(lambda: bob.told("call:ended"))
    assert ended["call"]["endReason"] == "hangup"
