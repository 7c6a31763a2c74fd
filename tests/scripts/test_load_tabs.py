"""`scripts/load-tabs` against a server of ours: small loads, whole reports."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scripts.tabs.crowd import Crowd
from scripts.tabs.histogram import Histogram
from scripts.tabs.tab import Address, Tab
from scripts.tabs.users import User
from tests.servers import JWT_SECRET, ROOT, Launch, eventually, free_port

pytest.importorskip("matplotlib")


async def load(url: str, *options: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scripts.tabs", "--url", url, *options,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, complained = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


def figures_in(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said)
    return found


async def test_every_tab_hears_every_grant_of_a_storm_once(launch: Launch, tmp_path: Path) -> None:
    server = launch()
    plot = tmp_path / "storm.png"
    options = ["--tabs", "40", "--users", "10", "--seconds", "2", "--rate", "30", "--processes", "2"]
    code, said, complained = await load(server.url, *options, "--json", "--plot", str(plot))
    assert code == 0, complained
    figures = figures_in(said)
    assert figures["tabs"] == {"opened": 40, "open_at_the_end": 40, "closed": {}}
    assert (figures["lost"], figures["twice"], figures["failures"]) == (0, 0, {})
    assert figures["messages_by_event"]["balance:update"] == 4 * figures["done"]["grants"] > 0
    assert {"balance:update", "grant answered"} <= figures["latency_ms"].keys()
    assert figures["cpu_us_a_message"] > 0
    assert figures["memory_kib_a_tab"] is not None
    assert f"pid {server.process.pid}" in figures["server"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "balance:update" in complained, "the table is there, beside the JSON"


async def test_pairs_call_and_are_metered(launch: Launch) -> None:
    server = launch(BILLING_PERIOD_SECONDS=1)
    options = ["--scenario", "calls", "--tabs", "8", "--users", "4", "--seconds", "3", "--call-seconds", "1.5"]
    code, said, complained = await load(server.url, *options, "--jwt-secret", JWT_SECRET, "--json", "--no-plot")
    assert code == 0, complained
    figures = figures_in(said)
    assert figures["done"]["calls"] >= 2
    assert (figures["lost"], figures["twice"], figures["failures"]) == (0, 0, {})
    assert {"call:incoming", "call:accepted", "call:ended"} <= figures["latency_ms"].keys()
    assert figures["messages_by_event"]["earnings:update"] > 0


async def test_a_server_that_is_not_there_is_named_in_one_line() -> None:
    port = free_port()
    code, said, complained = await load(f"http://127.0.0.1:{port}", "--json")
    assert (code, said) == (1, "")
    assert complained.startswith(f"load-tabs: 127.0.0.1:{port} does not answer")
    assert len(complained.splitlines()) == 1


async def test_ctrl_c_ends_it_and_its_client_processes(launch: Launch) -> None:
    server = launch()
    command = [sys.executable, "-m", "scripts.tabs", "--url", server.url, "--tabs", "10", "--seconds", "60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        await eventually(lambda: children(process.pid))
        clients = children(process.pid)
        process.send_signal(signal.SIGINT)
        _, complained = await asyncio.to_thread(process.communicate, timeout=90)
    assert process.returncode == 130
    assert complained.decode().splitlines()[-1] == "load-tabs: stopped"
    assert not any(Path(f"/proc/{pid}").exists() for pid in clients)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_percentiles_of_merged_histograms_are_those_of_all_their_durations() -> None:
    low, high = Histogram(), Histogram()
    for number in range(1, 501):
        low.add(number / 1000)
        high.add((500 + number) / 1000)
    low.merge(Histogram.from_json(high.to_json()))
    found = low.percentiles_ms()
    for name, wanted_ms in {"p50": 500, "p90": 900, "p99": 990, "max": 1000}.items():
        assert wanted_ms <= found[name] <= 1.02 * wanted_ms
    assert Histogram().percentiles_ms() == {}


@pytest.mark.parametrize(
    ("versions", "lost", "late", "twice"),
    [
        ([1, 2, 3], 0, 0, 0),
        ([1, 3], 1, 0, 0),
        ([1, 3, 2, 4], 0, 1, 0),
        ([1, 4, 3], 1, 1, 0),
        ([1, 3, 2, 2], 0, 1, 1),
        ([1, 1], 0, 0, 1),
        (["snapshot 2", 1, 3], 0, 0, 0),
        ([1, 3, "snapshot 3", 2], 0, 1, 0),
        ([1, 3, "snapshot 5", 4, 6], 1, 0, 0),
    ],
)  # fmt: skip
async def test_what_a_tab_lost_heard_late_and_heard_twice_are_told_apart(
    versions: list[Any], lost: int, late: int, twice: int
) -> None:
    async with aiohttp.ClientSession() as http:
        crowd = Crowd(http)
        tab = Tab(crowd, Address("http://127.0.0.1:1"), User("ann"), {}, opened_at=0.0)
        for version in versions:
            reason, number = version.split() if isinstance(version, str) else ("debit", version)
            pushed = ["balance:update", {"version": int(number), "reason": reason}]
            crowd.on_event(tab, b"42" + json.dumps(pushed, separators=(",", ":")).encode())
        assert (crowd.lost, crowd.late, crowd.twice) == (lost, late, twice)
