"""What an operator reads: one line for what is expected, a short traceback for what is not."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from procrastinate.exceptions import ConnectorException

from realtime.adapters import logs
from tests.servers import ROOT


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
        logging.getLogger("a.library").warning("could not connect", exc_info=True)
    [line] = said(capsys)
    assert line["error"] == "ConnectionRefusedError: nobody listens"
    assert line["logger"] == "a.library"
    assert "exception" not in line


def test_a_job_that_failed_since_a_server_is_away_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_format="json", log_dir=None, role="web")
    try:
        fail(3, ConnectionRefusedError("nobody listens"))
    except OSError:
        logging.getLogger("procrastinate.worker.worker").exception("Job check[1]() ended with status: Error")
    [line] = said(capsys)
    assert (line["level"], line["error"]) == ("error", "ConnectionRefusedError: nobody listens")
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


def test_what_pools_and_the_job_library_say_of_an_outage_is_left_to_those_who_say_it_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(log_format="json", log_dir=None, role="web")
    logging.getLogger("psycopg.pool").warning("error connecting in 'pool-1': connection refused")
    logging.getLogger("asyncpg.pool").warning("Failed to restore the pool connection floor; retrying")
    for error in (ConnectorException(), KeyError("unheard of")):
        try:
            fail(1, error)
        except (ConnectorException, KeyError):
            logging.getLogger("procrastinate.worker.worker").exception("Side task listener failed")
    [line] = said(capsys)
    assert "unheard of" in line["exception"], "what is no outage is said"


def test_no_line_of_ours_says_an_error_by_its_repr_which_may_leave_its_reason_out() -> None:
    for file in sorted((ROOT / "realtime").rglob("*.py")):
        assert not re.search(r"\w+=repr\(", file.read_text()), file
