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
    figures = bench("ledger", tmp_path, "--seconds", "0.2", "--batches", "1", "100", "--writers", "2", "--legs", "3")
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
