"""The TypeScript side's own checks, run with everything else; and its documents, which are this server's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

WEB = ROOT / "web"


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_the_documents_that_the_client_is_generated_from_are_the_servers(name: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "realtime", name],
        check=True, capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    ).stdout  # fmt: skip
    assert (WEB / f"{name}.json").read_text() == printed, (
        f"run: python -m realtime {name} > web/{name}.json, then npm run types in web/"
    )


@pytest.mark.parametrize("script", ["check", "test"])
def test_the_web_project_passes(built_page: Path, script: str) -> None:
    npm = shutil.which("npm")
    assert npm, "the page was built with it"
    done = subprocess.run([npm, "run", script], check=False, capture_output=True, text=True, cwd=WEB, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
