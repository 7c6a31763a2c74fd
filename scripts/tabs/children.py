"""Processes that are told what to do by JSON lines: `{number, command, options}` in, `{number, answer or failed}` out.

A line without a number tells how things stand. A child ends when its input does.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).parent.parent.parent
LONGEST_LINE_BYTES = 64_000_000
STOPS_WITHIN_S = 5.0


class ChildFailed(Exception):
    """A child could not do what it was told, or has ended."""


class Child:
    @classmethod
    async def start(cls, *command: str, **environment: str) -> Child:
        return cls(
            await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=os.environ | environment, limit=LONGEST_LINE_BYTES, start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )
        )  # fmt: skip

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.standing: dict[str, Any] = {}
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def ask(self, command: str, **options: Any) -> Any:
        """Raises ChildFailed."""
        if self._reading.done():
            raise ChildFailed("a process has ended")
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"number": number, "command": command, "options": options}) + b"\n")
        return await answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = orjson.loads(line)
            if "number" not in said:
                self.standing = said
            elif not (answer := self._asked.pop(said["number"])).done():
                if "failed" in said:
                    answer.set_exception(ChildFailed(said["failed"]))
                else:
                    answer.set_result(said["answer"])
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChildFailed("a process has ended"))

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOPS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading
