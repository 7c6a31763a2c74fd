"""The child's side of `children`: carries out the commands that come as lines, several at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

import orjson

from scripts.tabs.children import LONGEST_LINE_BYTES


class Say(Protocol):
    def __call__(self, **what: Any) -> None: ...


def _say(**what: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


async def obey(
    commands: Mapping[str, Callable[..., Awaitable[Any]]],
    *,
    meanwhile: Callable[[Say], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Until the input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LONGEST_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def carry_out(number: int, command: str, options: dict[str, Any]) -> None:
        try:
            answer = await commands[command](**options)
        except Exception as error:
            _say(number=number, failed=f"{type(error).__name__}: {error}".removesuffix(": "))
        else:
            _say(number=number, answer=answer)

    tasks = {loop.create_task(meanwhile(_say))} if meanwhile is not None else set()
    while line := await lines.readline():
        task = loop.create_task(carry_out(**orjson.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
