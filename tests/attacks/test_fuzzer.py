"""The coverage-guided fuzzer, for a moment: what it tries is read or refused. `scripts/fuzz` goes on for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT


def test_whatever_bytes_a_client_sends_are_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not to be had for this Python")
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.fuzz_packets", "-runs=30000", "-max_len=300", "-seed=1",
         f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-6_000:]
