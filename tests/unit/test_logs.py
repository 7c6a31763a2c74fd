"""What an operator reads: one line for what is expected, a short traceback for what is not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from realtime.adapters import logs


@pytest.fixture(autouse=True)
def the_logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail(depth: int, error: Exception) -> None:
    """Deep down, by two functions in turn: frames that are alike are printed once."""
    secret = "of-this-frame"  # noqa: F841
    if depth == 0:
        raise error
    fail_too(depth - 1, error)


def fail_too(depth: int, error: Exception) -> None:
    fail(depth, error)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_librarys_warning_that_a_server_is_away_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_format="json", log_dir=None, role="web")
    try:
        fail(3, ConnectionRefusedError("nobody listens"))
    except OSError:
        logging.getLogger("asyncpg.pool").warning("Failed to restore the pool connection floor", exc_info=True)
    [line] = said(capsys)
    assert line["error"] == "ConnectionRefusedError: nobody listens"
    assert line["logger"] == "asyncpg.pool"
    assert "exception" not in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_nobody_expected_comes_with_its_innermost_frames_and_no_values(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    logs.configure(log_format=log_format, log_dir=None, role="web")
    try:
        fail(40, KeyError("unheard of"))
    except KeyError:
        structlog.get_logger().exception("a request failed")
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "KeyError: 'unheard of'" in text
    assert text.count("in fail") == logs.FRAMES_SHOWN
    assert "secret = " not in text
    assert (text.count("\n") == 1) == (log_format == "json")
