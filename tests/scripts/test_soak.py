"""`scripts/soak`, tiny: the whole of it, with its own servers, and what it calls flat."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from scripts.endurance.report import line
from scripts.endurance.verdict import trend
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
