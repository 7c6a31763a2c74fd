"""The package that is installed where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.servers import ROOT


def test_the_wheel_holds_the_queries_the_migrations_the_page_and_the_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(command, check=True, timeout=200, cwd=tmp_path)
    [wheel] = tmp_path.glob("callmeter-*.whl")
    with zipfile.ZipFile(wheel) as package:
        names = set(package.namelist())
        [commands] = (package.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    needed = {
        path.relative_to(ROOT).as_posix() for part in ("ledger", "realtime") for path in (ROOT / part).rglob("*.sql")
    }
    assert needed, "there are queries and migrations"
    assert needed <= names
    built = ROOT / "web" / "dist"
    pages = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert {f"realtime/edge/page/{page}" for page in pages} <= names
    assert "callmeter = realtime.command:main" in commands
