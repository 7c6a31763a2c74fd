"""A process full of tabs, told what to do by JSON lines on its standard input: `python -m scripts.tabs.crowd_process`.

It ends when its input does, so it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from functools import partial

import aiohttp
import uvloop

from scripts.tabs import calls, soak, storm
from scripts.tabs.crowd import HTTP_WITHIN_S, Crowd
from scripts.tabs.obedience import Say, obey
from scripts.tabs.processes import open_files_to_the_limit

TELL_EVERY_S = 0.25


async def main() -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_WITHIN_S)) as http:
        crowd = Crowd(http)

        async def tell(say: Say) -> None:
            while True:
                await asyncio.sleep(TELL_EVERY_S)
                say(opened=crowd.opened, closed=crowd.closed.total(), events=crowd.events)

        own = (crowd.be, crowd.open, crowd.heard, crowd.settle, crowd.figures, crowd.recount, crowd.close)
        scenarios = {"storm": storm, "calls": calls, "soak": soak}
        commands = {command.__name__: command for command in own}
        commands |= {name: partial(scenario.run, crowd) for name, scenario in scenarios.items()}
        await obey(commands, meanwhile=tell)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it, who closes its input
    open_files_to_the_limit()
    gc.set_threshold(50_000)
    uvloop.run(main())
