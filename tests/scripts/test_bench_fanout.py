"""`scripts/bench fanout`: a small run of it, and what its ratios mean."""

from __future__ import annotations

import asyncio
import json
import sys

from scripts.benchmarks.fanout import _summary
from tests.servers import ROOT


async def test_ours_and_python_socketio_are_measured_side_by_side() -> None:
    command = ["-m", "scripts.benchmarks", "fanout", "--json", "--quick", "--tabs", "60", "--no-spread"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--only", "ours", "--only", "stock",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, shown = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, shown.decode()
    figures = json.loads(said)
    assert set(figures["servers"]) == {"ours", "stock"}
    for scenarios in figures["servers"].values():
        assert set(scenarios) == {"connect", "broadcast", "rooms", "rooms_redis"}
        assert all(scenarios[name]["per_s"] > 0 for name in scenarios)
    assert "ratio_broadcast" not in figures, "there is no Node to compare with"
    assert "python-socketio" in shown.decode()


def test_ratios_are_of_speed_for_messages_and_of_cost_for_tabs() -> None:
    def turn(cpu_us: float, memory_bytes: float) -> dict[str, dict[str, float]]:
        messages = {"cpu_us": cpu_us}
        tabs = {"cpu_us": cpu_us, "memory_bytes": memory_bytes}
        return {"broadcast": messages, "rooms": messages, "rooms_redis": messages, "connect": tabs}

    ours = [turn(5, 1_000), turn(4, 9_000), turn(90, 2_000)]
    figures = _summary({"ours": ours, "node": [turn(10, 4_000)]})
    assert figures["ratio_broadcast"] == figures["ratio_rooms_redis"] == 2
    assert (figures["ratio_memory"], figures["ratio_connect_cpu"]) == (0.5, 0.5)
