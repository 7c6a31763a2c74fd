"""scripts/setup on machines that lack something, with a Python that only plays one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT

TOOLS = ("bash", "sh", "cat", "cksum", "dirname", "flock", "grep", "id", "rm", "tail", "tr")
OLD = """#!/bin/sh
case "$1" in -V) echo Python 3.10.1 ;; *) exit 1 ;; esac
"""
OFFLINE = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"pip --disable-pip-version-check install -q -c"*)
    printf 'error: subprocess-exited-with-error\\nERROR: Could not find a version that satisfies aiohttp\\n'; exit 1 ;;
  *"install -q uv"*) exit 1 ;;
esac
"""


def set_up(root: Path, python: str) -> tuple[int, list[str]]:
    """How it ended where `python` is all there is, and what it said."""
    (root / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", root / "scripts")
    for name in ("constraints.txt", "pyproject.toml"):
        (root / name).touch()
    tools = root / "bin"
    tools.mkdir()
    for tool in (*TOOLS, "mkdir", "cp"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    (tools / "python3").write_text(python)
    (tools / "python3").chmod(0o755)
    done = subprocess.run(
        [root / "scripts" / "setup"], env={"PATH": str(tools)}, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr.splitlines()


def test_an_old_python_is_named_with_the_one_that_is_needed(tmp_path: Path) -> None:
    code, said = set_up(tmp_path, OLD)
    assert code == 1
    assert len(said) == 1
    assert "3.11 or newer" in said[0]
    assert "Python 3.10.1" in said[0]


def test_a_python_that_cannot_even_be_started_is_named_as_none_that_serves(tmp_path: Path) -> None:
    code, said = set_up(tmp_path, "#!/bin/sh\necho 'shim: no version is set' >&2; exit 127\n")
    assert code == 1
    assert len(said) == 1
    assert "3.11 or newer" in said[0]
    assert "shim: no version is set" in said[0]


def test_a_package_index_that_cannot_be_reached_is_named_as_that(tmp_path: Path) -> None:
    code, said = set_up(tmp_path, OFFLINE.replace("error: subprocess", "WARNING: Temporary failure in name resolution"))
    assert code == 1
    assert len(said) == 2
    assert "the package index cannot be reached" in said[1]


@pytest.mark.parametrize(
    "said_by", ["[Errno 2] No such file or directory: 'gcc'", "command 'x86_64-linux-gnu-gcc' failed: No such file"]
)
def test_a_missing_compiler_is_named_where_a_package_has_to_be_built(tmp_path: Path, said_by: str) -> None:
    code, said = set_up(tmp_path, OFFLINE.replace("error: subprocess-exited-with-error", said_by.replace("'", "\\047")))
    assert code == 1
    assert len(said) == 2
    assert "no C compiler" in said[1]


def test_a_download_that_fails_is_told_in_the_one_line_that_says_why(tmp_path: Path) -> None:
    code, said = set_up(tmp_path, OFFLINE)
    assert code == 1
    assert len(said) == 2, "what it does, and what became of it"
    assert "Could not find a version" in said[1]
    assert not (tmp_path / ".venv" / ".installed").exists(), "and the next start tries again"
