"""`scripts/bench ledger`, `calls` and `reads`: that they say what they measured; how fast is for those who read it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.servers import ROOT


def bench(name: str, results: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", name, "--json", "--results", results, *arguments],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_posting_is_measured_beside_the_raw_limit_and_pgbench(tmp_path: Path) -> None:
    small = ["--seconds", "0.2", "--batches", "1", "100", "--writers", "2", "--legs", "3", "--pgbench-scale", "1"]
    figures = bench("ledger", tmp_path, *small)
    assert [(cell["legs"], cell["batch"], cell["writers"]) for cell in figures["cells"]] == [(3, 1, 2), (3, 100, 2)]
    for cell in figures["cells"]:
        for side in ("ours", "raw"):
            assert cell[side]["journals_per_s"] > 0
            assert cell[side]["batch_ms"]["p50"] <= cell[side]["batch_ms"]["max"]
    assert figures["best"]["batch"] == 100
    assert figures["ratio_to_raw"] > 0
    assert (figures["ratio_to_tpcb"] is None) == (figures["pgbench"]["tpcb-like"] is None)
    assert figures["server"]["fsync"] == figures["server"]["synchronous_commit"] == "on"
    assert Path(figures["plot"]).read_bytes().startswith(b"\x89PNG")


def test_due_calls_are_metered_in_batches_and_the_best_cell_says_how_many_calls_a_database_carries(
    tmp_path: Path,
) -> None:
    figures = bench(
        "calls", tmp_path, "--calls", "40", "--seconds", "0.1", "--batches", "1", "20", "--meters", "1", "2"
    )
    assert [(cell["batch"], cell["meters"]) for cell in figures["cells"]] == [(1, 1), (1, 2), (20, 1), (20, 2)]
    for cell in figures["cells"]:
        assert cell["billed"] > 0
        assert cell["batch_ms"]["p50"] <= cell["batch_ms"]["p99"] <= cell["batch_ms"]["max"]
    assert figures["calls_per_s"] == max(cell["calls_per_s"] for cell in figures["cells"])
    assert figures["concurrent_calls"] == 60 * figures["calls_per_s"]


def test_reads_are_measured_with_their_plans_on_a_ledger_of_the_size_asked_for(tmp_path: Path) -> None:
    figures = bench("reads", tmp_path, "--entries", "20000", "--seconds", "0.05")
    assert figures["entries"] == 20_000
    assert len(figures["reads"]) == 8
    for read in figures["reads"]:
        for plan in ("settled", "first"):
            assert read[plan]["ms"]["p50"] <= read[plan]["ms"]["p99"]
            assert "Buffers: shared hit=" in read[plan]["plan"]
    [by_primary_key] = [read for read in figures["reads"] if read["read"] == "balance by primary key"]
    assert "Index Scan using accounts_pkey" in by_primary_key["settled"]["plan"]
