"""Section 2: what holds where nothing is set, and what the settings of Upstash stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realtime.config import load
from tests.contract.test_settings import CONTRACT
from tests.servers import ROOT

DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1", "port": 8080, "workers": 1, "meter_in_web": True, "database_url": None, "redis_url": None,
    "agora_token_version": "007", "tokens_per_usd": 100, "default_rate_tokens_per_period": 10,
    "platform_fee_percent": 20, "billing_period_seconds": 60, "call_grace_seconds": 10, "ring_timeout_seconds": 45,
    "reconnect_grace_seconds": 30, "billing_rounding": "period", "money_ops_per_minute": 10,
    "rate_limit_trust_levels": {"basic": 5, "verified": 15, "trusted": 30, "vip": 50},
    "daily_spend_limit_cents": 10_000, "idempotency_ttl_seconds": 86_400, "enable_enhanced_features": True,
    "csp_report_only": False, "csp_report_uri": "/api/csp-report", "log_dir": None, "log_format": "console",
    "otel_exporter_otlp_endpoint": None, "environment": "development",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in CONTRACT.split():
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", DEFAULTS)
def test_where_nothing_is_set_the_default_is_the_contracts(name: str) -> None:
    assert getattr(load(), name) == DEFAULTS[name]


def test_every_setting_of_the_contract_is_read() -> None:
    assert {name.lower() for name in CONTRACT.split()} <= set(type(load()).model_fields)


def test_upstashs_rest_url_and_token_are_the_equivalent_redis_url_and_a_redis_url_goes_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", "https://eu1-calm-fox-1.upstash.io")
    monkeypatch.setenv("UPSTASH_REDIS_REST_TOKEN", "AX/to+ken=")
    assert load().redis_url == "rediss://default:AX%2Fto%2Bken%3D@eu1-calm-fox-1.upstash.io:6379"
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:6379/2")
    assert load().redis_url == "redis://127.0.0.1:6379/2"


def test_the_procfile_migrates_then_serves_and_meters() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert lines == {
        "release": "python -m ledger migrate up", "web": "python -m realtime", "worker": "python -m realtime worker",
    }  # fmt: skip
