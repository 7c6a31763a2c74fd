"""`scripts/soak`, tiny: the whole of it, with its own servers, and what it calls flat."""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

from scripts.endurance.report import line
from scripts.endurance.verdict import trend
from scripts.tabs.crowd import Crowd
from scripts.tabs.soak import Soak
from scripts.tabs.tab import OPEN, Address, Tab
from scripts.tabs.users import User
from tests.servers import ROOT

pytest.importorskip("matplotlib")


async def test_a_soak_bills_what_passed_loses_nothing_and_throws_its_servers_away(tmp_path: Path) -> None:
    options = ["--minutes", "0.15", "--calls", "15", "--tabs", "60", "--call-seconds", "3", "--tabs-per-s", "4"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scripts.endurance", *options, "--processes", "1", "--json",
        "--plot", str(tmp_path / "soak.png"),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, complained = await asyncio.wait_for(process.communicate(), 200)
    assert said, complained.decode()
    figures = json.loads(said)
    # So short a run says nothing about growth; everything else must hold.
    problems = [problem for problem in figures["problems"] if " grew from " not in problem]
    assert (problems, process.returncode) == ([], 1 if figures["problems"] else 0), complained.decode()
    periods = figures["periods"]
    assert periods["periods"] == periods["debits"] > 0
    assert periods["miscounted"] == 0
    assert figures["ledger"]["findings"] == []
    assert (figures["lost"], figures["twice"]) == (0, 0)
    assert figures["done"]["tabs that came back"] > 0
    assert figures["done"]["purchases"] > 0
    assert figures["done"]["calls: hangup"] > 15, "calls were replaced by new ones"
    assert all(len(values) == len(figures["at_s"]) for values in figures["series"].values())
    assert min(figures["series"]["web memory"]) > 0
    assert "PostgreSQL memory" in complained.decode(), "the plot in the terminal"
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


class AnswersAtOnce(Tab):
    """A tab whose server answers in the next turn; how many were waiting for an answer when it was closed is told."""

    waiting_at_the_end: ClassVar[list[int]] = []

    def ask(self, event: str, payload: Any) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(answer.set_result, {"ok": True})
        return answer

    def close(self) -> None:
        self.waiting_at_the_end.append(self.kept)

    give_up = close


class Unconnected(Crowd):
    async def connect(self, user: User) -> None:
        tab = AnswersAtOnce(self, Address("http://127.0.0.1"), user, {}, 0.0)
        tab.state = OPEN
        user.tabs.append(tab)


async def test_no_tab_is_closed_while_its_user_waits_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.tabs.soak.AWAY_S", 0.0)
    monkeypatch.setattr(AnswersAtOnce, "waiting_at_the_end", [])
    async with aiohttp.ClientSession() as http:
        crowd, user = Unconnected(http), User("ada")
        await crowd.connect(user)
        await crowd.connect(user)
        soak = Soak(crowd, call_s=1.0, stripe_url="", until=math.inf)

        async def ask_on() -> None:
            while len(AnswersAtOnce.waiting_at_the_end) < 200:
                await soak._ask_once(user, "call:join", {})
                await asyncio.sleep(random.uniform(0, 1e-3))  # now before, now behind who closes tabs
            soak.until = 0.0

        await asyncio.wait_for(asyncio.gather(ask_on(), soak.come_and_go([user], 1e4)), 60)
    assert set(AnswersAtOnce.waiting_at_the_end) == {0}


async def test_who_waits_for_an_answer_of_a_tab_that_is_closed_is_told_at_once() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b'\x81\x0f40{"sid":"its"}')
        await reader.readuntil(b"balance:get")
        writer.close()

    async with aiohttp.ClientSession() as http, await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        crowd, user = Crowd(http), User("ada")
        await crowd.be(url=f"http://127.0.0.1:{port}", crowd=1, users=[], tabs_each=1, credentials={"secret": "-"})
        await crowd.connect(user)
        with pytest.raises(ConnectionError, match="the connection was lost"):
            await asyncio.wait_for(user.tabs[0].ask("balance:get", {}), 5)


MINUTES = [10.0 * n for n in range(60)]


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        pytest.param([100.0] * 60, True, id="level"),
        pytest.param([100.0 + n for n in range(60)], False, id="a leak"),
        pytest.param([100.0 + n / 10 for n in range(60)], True, id="less than is worth a word"),
        pytest.param([100.0 + 30 * (n % 2) for n in range(60)], True, id="waves"),
        pytest.param([50.0 + 5 * n for n in range(15)] + [125.0] * 45, True, id="a warm-up"),
        pytest.param([200.0 - n for n in range(60)], True, id="shrinking"),
        pytest.param([0.0] * 40 + [200.0] * 20, False, id="a step that stays"),
    ],
)
def test_only_what_goes_on_growing_after_the_warm_up_is_not_flat(values: list[float], flat: bool) -> None:
    assert trend(MINUTES, values, 10.0, warm_up_s=150).flat is flat


def test_a_line_of_blocks_is_as_high_as_its_values() -> None:
    assert line([0, 1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇██"
    assert len(line([1.0] * 1000)) == 60
