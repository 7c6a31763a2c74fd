"""scripts/build-web with an npm that only writes down what it was asked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT

NPM = """#!/bin/sh
echo "$1" >>"$NPM_LOG"
case "$1" in
  ci) mkdir -p node_modules ;;
  run) [ -f broken ] && { echo "no such module"; exit 1; }; rm -rf dist; mkdir dist; echo page >dist/index.html ;;
esac
"""


class Checkout:
    def __init__(self, root: Path) -> None:
        self.root, self.web, self.bin = root, root / "web", root / "bin"
        (root / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "build-web", root / "scripts")
        self.bin.mkdir()
        for tool in (
            "bash",
            "sh",
            "find",
            "sort",
            "xargs",
            "cksum",
            "cat",
            "mktemp",
            "rm",
            "mkdir",
            "dirname",
            "tail",
            "flock",
        ):
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.web.mkdir()
        (self.web / "package.json").write_text("{}")
        (self.web / "package-lock.json").write_text("{}")
        (self.web / "main.ts").write_text("1")

    def with_npm(self) -> None:
        (self.bin / "npm").write_text(NPM)
        (self.bin / "npm").chmod(0o755)

    def build(self) -> tuple[list[str], str]:
        """What npm was asked, and what was said."""
        log = self.root / "npm.log"
        log.write_text("")
        done = subprocess.run(
            [self.root / "scripts" / "build-web"],
            env={"PATH": str(self.bin), "NPM_LOG": str(log)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return log.read_text().split(), done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_page_is_built_once_for_each_state_of_its_sources(checkout: Checkout) -> None:
    checkout.with_npm()
    assert checkout.build()[0] == ["ci", "run"]
    assert checkout.build() == ([], "")
    (checkout.web / "main.ts").write_text("2")
    assert checkout.build()[0] == ["run"], "what is installed still fits the lock file"
    (checkout.web / "package-lock.json").write_text("{ }")
    assert checkout.build()[0] == ["ci", "run"]


def test_without_npm_the_start_goes_on_and_says_so_in_one_line(checkout: Checkout) -> None:
    asked, said = checkout.build()
    assert asked == []
    assert said.count("\n") == 1
    assert "npm is not installed" in said


def test_a_page_that_cannot_be_built_does_not_stop_the_start(checkout: Checkout) -> None:
    checkout.with_npm()
    (checkout.web / "broken").touch()
    _, said = checkout.build()
    assert "no such module" in said
    assert "could not be built" in said
    (checkout.web / "broken").unlink()
    assert checkout.build()[0] == ["run"], "and is tried again"


def test_a_checkout_without_a_page_needs_nothing(checkout: Checkout) -> None:
    shutil.rmtree(checkout.web)
    assert checkout.build() == ([], "")
