"""scripts/serve, with a set-up and a page that only write down what became of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT

# Opened for writing by what the page's build runs: its other end is read to the end once all of that is gone.
BUILDS = '#!/bin/sh\nsh -c \'echo building; echo >"$1"; exec cat "$2"\' - started held >building.fifo\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "serve", tmp_path / "scripts")
    for name in ("building.fifo", "held", "started"):
        os.mkfifo(tmp_path / name)
    return tmp_path


def script(checkout: Path, name: str, text: str) -> None:
    path = checkout / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("ended", ["set-up failed", "SIGTERM"])
def test_a_start_that_ends_while_setting_up_leaves_no_build_running(checkout: Path, ended: str) -> None:
    script(checkout, "scripts/build-web", BUILDS)
    fails = ended == "set-up failed"
    script(checkout, "scripts/setup", f"#!/bin/sh\nread -r _ <started\n{'exit 1' if fails else 'kill $PPID'}\n")
    serve = subprocess.Popen([checkout / "scripts" / "serve"])
    said = (checkout / "building.fifo").read_text()
    assert said == "building\n", "and its writers are gone: the build's own processes as well"
    assert serve.wait(30) == (1 if fails else -signal.SIGTERM)


def test_it_serves_once_the_page_and_the_dependencies_are_there(checkout: Path) -> None:
    script(checkout, "scripts/setup", "#!/bin/sh\necho set >set-up\nread -r _ <started\n")
    script(checkout, "scripts/build-web", "#!/bin/sh\necho >started\necho built >page\n")
    script(checkout, ".venv/bin/python", "#!/bin/sh\ncat set-up page; echo serving with $*\n")
    done = subprocess.run(
        [checkout / "scripts" / "serve", "--workers", "2"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "set\nbuilt\nserving with -m realtime --migrate --workers 2\n"
