"""The dashboard, the alerts and the runbook speak of metrics and panels there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from realtime.adapters.metrics import Metrics
from tests.servers import ROOT

OPERATIONS = ROOT / "docs" / "operations"
RULES = [
    rule for group in yaml.safe_load((OPERATIONS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
PANELS = json.loads((OPERATIONS / "dashboard.json").read_text())["panels"]
RUNBOOK = (OPERATIONS / "runbook.md").read_text()
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in PANELS for target in panel.get("targets", [])
]


def known_metrics() -> dict[str, set[str]]:
    """Each sample's name with its labels."""
    found: dict[str, set[str]] = {}
    for instrument in vars(Metrics()).values():
        if not hasattr(instrument, "_labelnames"):
            continue
        labels = set(instrument._labelnames)
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}[
            instrument._type
        ]:
            found[instrument._name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


KNOWN = known_metrics()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_asked_for_is_one_there_is_with_the_labels_it_has(expression: str) -> None:
    names = re.findall(r"callmeter_\w+", expression)
    assert names or re.search(r"\b(up|process_\w+){job=\"callmeter\"}", expression)
    labels: set[str] = set()
    for name in names:
        assert name in KNOWN
        labels |= KNOWN[name]
    asked = {part.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for part in by.split(",")}
    asked |= {
        match for selector in re.findall(r"{([^}]*)}", expression) for match in re.findall(r"(\w+)[=!]", selector)
    }
    assert asked <= labels | {"job", "instance"}


def test_every_metric_there_is_is_on_the_dashboard_or_alerted_on() -> None:
    shown = set(re.findall(r"callmeter_\w+", " ".join(EXPRESSIONS)))
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    everything = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in KNOWN}
    assert everything - families == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_leads_to_its_section(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"runbook.md#{rule['alert'].lower()}"
    assert f"\n## {rule['alert']}\n" in RUNBOOK


def test_every_section_is_of_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_the_runbook_names_only_metrics_and_panels_there_are() -> None:
    known = set(KNOWN) | {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in KNOWN}
    assert set(re.findall(r"callmeter_\w+", RUNBOOK)) <= known
    shown = {panel["title"] for panel in PANELS} | {rule["alert"] for rule in RULES}
    named = set(re.findall(r"(?<!\*)\*(\w[^*]*)\*(?!\*)", " ".join(RUNBOOK.split())))
    assert named
    assert {name for name in named if name[0].isupper()} <= shown


def test_the_lines_of_the_log_the_runbook_names_are_said_somewhere() -> None:
    code = "".join(file.read_text() for file in sorted((ROOT / "realtime").rglob("*.py")))
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", " ".join(RUNBOOK.split())))
    named = [text for text in spans if re.fullmatch(r"[a-z]+( [A-Za-z]+){2,}", text)]
    assert named
    assert [line for line in named if line not in code] == []


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
