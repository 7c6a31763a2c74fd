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
  ci) [ -f offline ] && { printf 'npm error code X\nnpm error x failed, reason: refused\nbye\n'; exit 1; }
      echo "$*" >>"$NPM_LOG.options"; mkdir -p node_modules ;;
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
            "id",
            "grep",
        ):
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.web.mkdir()
        (self.web / "package.json").write_text("{}")
        (self.web / "package-lock.json").write_text("{}")
        (self.web / "main.ts").write_text("1")

    def with_npm(self) -> None:
        self._program("npm", NPM)
        self.with_node(suffices=True)

    def with_node(self, *, suffices: bool) -> None:
        answer = 0 if suffices else 1
        self._program("node", f'#!/bin/sh\ncase "$1" in -v) echo v18.1.0 ;; *) exit {answer} ;; esac\n')

    def _program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def build(self, *arguments: str) -> tuple[list[str], str]:
        """What npm was asked, and what was said."""
        log = self.root / "npm.log"
        log.write_text("")
        done = subprocess.run(
            [self.root / "scripts" / "build-web", *arguments],
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


def test_an_old_node_is_named_with_the_one_that_is_needed(checkout: Checkout) -> None:
    checkout.with_npm()
    checkout.with_node(suffices=False)
    asked, said = checkout.build()
    assert asked == []
    assert said.count("\n") == 1
    assert "20.19" in said
    assert "v18.1.0" in said


def test_only_who_asks_for_it_gets_what_checks_and_tests_need(checkout: Checkout) -> None:
    checkout.with_npm()
    checkout.build()
    assert checkout.build("dev")[0] == ["ci"], "the page is there already"
    assert checkout.build("dev") == ([], "")
    assert checkout.build() == ([], "")
    (checkout.web / "main.ts").write_text("2")
    assert checkout.build()[0] == ["run"], "more than is needed is there"
    options = (checkout.root / "npm.log.options").read_text().splitlines()
    assert ["--omit=dev" in line for line in options] == [True, False]


def test_a_download_that_fails_is_told_in_the_one_line_that_says_why(checkout: Checkout) -> None:
    checkout.with_npm()
    (checkout.web / "offline").touch()
    said = checkout.build()[1].splitlines()
    assert len(said) == 2, "what it does, and what became of it"
    assert "failed, reason: refused" in said[1]
    assert "bye" in (checkout.web / ".build.log").read_text()


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
