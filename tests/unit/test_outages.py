"""An outage is one fact: said when it begins, and when it is over."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.services import outages
from realtime.services.outages import Outage


class Said:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append(("warning", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(("info", event, facts))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    said = Said()
    monkeypatch.setattr(outages, "log", said)
    return said


def test_an_outage_is_said_once_with_its_reason_and_its_end_with_how_long_it_was(said: Said) -> None:
    outage = Outage(waits="jobs wait", again="jobs run again")
    for _ in range(3):
        outage.met(ConnectionRefusedError("nobody listens"))
    outage.over()
    outage.over()
    [(level, event, facts), (end_level, end_event, end_facts)] = said.lines
    assert (level, event, facts) == ("warning", "jobs wait", {"error": "ConnectionRefusedError: nobody listens"})
    assert (end_level, end_event) == ("info", "jobs run again")
    assert end_facts["after_s"] >= 0


def test_a_second_outage_is_said_like_the_first(said: Said) -> None:
    outage = Outage(waits="jobs wait", again="jobs run again")
    for _ in range(2):
        outage.met(OSError("away"))
        outage.over()
    assert [event for _, event, _ in said.lines] == ["jobs wait", "jobs run again"] * 2


def test_what_was_never_away_is_not_said_to_be_back(said: Said) -> None:
    Outage(waits="jobs wait", again="jobs run again").over()
    assert said.lines == []
