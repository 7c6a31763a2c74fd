"""Section 2: settings. A bad value stops the start with one line that names it, and says no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger import migrations
from realtime.__main__ import main
from realtime.composition import SCHEMA_REVISION
from tests.contract.service import Serve, command_env
from tests.servers import AGORA_APP_CERTIFICATE, AGORA_APP_ID, JWT_SECRET, ROOT, Server, free_port

CONTRACT = """
HOST PORT WORKERS DATABASE_URL REDIS_URL UPSTASH_REDIS_REST_URL UPSTASH_REDIS_REST_TOKEN JWT_SECRET JWT_JWKS_URL
ALLOWED_ORIGINS AGORA_APP_ID AGORA_APP_CERTIFICATE AGORA_TOKEN_VERSION AGORA_CUSTOMER_ID AGORA_CUSTOMER_SECRET
AGORA_API_BASE AGORA_WEBHOOK_SECRET STRIPE_SECRET_KEY STRIPE_WEBHOOK_SECRET STRIPE_API_BASE STRIPE_PUBLISHABLE_KEY
TOKENS_PER_USD DEFAULT_RATE_TOKENS_PER_PERIOD PLATFORM_FEE_PERCENT BILLING_PERIOD_SECONDS CALL_GRACE_SECONDS
RING_TIMEOUT_SECONDS RECONNECT_GRACE_SECONDS BILLING_ROUNDING MONEY_OPS_PER_MINUTE RATE_LIMIT_TRUST_LEVELS
DAILY_SPEND_LIMIT_CENTS IDEMPOTENCY_TTL_SECONDS ENABLE_ENHANCED_FEATURES CSP_REPORT_ONLY CSP_REPORT_URI LOG_DIR
LOG_FORMAT OTEL_EXPORTER_OTLP_ENDPOINT ENVIRONMENT METER_IN_WEB
"""

Says = Callable[..., tuple[int, str]]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Says:
    """The exit code and what is said when the program is started with these settings and no others.

    It is asked for its OpenAPI document, so that it does not go on to serve where a value is taken.
    """
    monkeypatch.chdir(tmp_path)
    for name in CONTRACT.split():
        monkeypatch.delenv(name, raising=False)

    def start(**settings: str) -> tuple[int, str]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        code = main(["openapi"])
        said = capsys.readouterr()
        if code == 0:
            assert json.loads(said.out)["openapi"]
        return code, said.err

    return start


BAD = [
    ("PORT", "abc"), ("PORT", "-1"), ("PORT", "65536"), ("PORT", "80.5"),
    ("WORKERS", "0"), ("WORKERS", "-1"), ("WORKERS", "two"),
    ("DATABASE_URL", "mysql://localhost/x"), ("DATABASE_URL", "nonsense"), ("DATABASE_URL", "postgresql://h:port/x"),
    ("REDIS_URL", "http://localhost"), ("REDIS_URL", "nonsense"), ("REDIS_URL", "redis://localhost:port"),
    ("REDIS_URL", "redis://localhost:99999"),
    ("UPSTASH_REDIS_REST_URL", "nonsense"),
    ("TRUSTED_PROXIES", "proxy.example.com"), ("TRUSTED_PROXIES", "10.0.0.0/33"), ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ("JWT_JWKS_URL", "nonsense"), ("JWT_JWKS_URL", "ftp://localhost/keys"),
    ("ALLOWED_ORIGINS", "app.example.org"), ("ALLOWED_ORIGINS", "https://app.example.org/path"),
    ("ALLOWED_ORIGINS", "https://a.example.org https://b.example.org"), ("ALLOWED_ORIGINS", "https://"),
    ("ALLOWED_ORIGINS", "https://*.example.org"),
    ("AGORA_APP_ID", "short"), ("AGORA_APP_CERTIFICATE", "short"), ("AGORA_APP_ID", "g" * 32),
    ("AGORA_TOKEN_VERSION", "008"), ("AGORA_TOKEN_VERSION", "7"), ("AGORA_API_BASE", "nonsense"),
    ("STRIPE_API_BASE", "nonsense"),
    ("TOKENS_PER_USD", "0"), ("TOKENS_PER_USD", "-1"), ("TOKENS_PER_USD", "1.5"), ("TOKENS_PER_USD", "x"),
    ("DEFAULT_RATE_TOKENS_PER_PERIOD", "-1"), ("DEFAULT_RATE_TOKENS_PER_PERIOD", "x"),
    ("DEFAULT_RATE_TOKENS_PER_PERIOD", "9" * 30),
    ("PLATFORM_FEE_PERCENT", "-1"), ("PLATFORM_FEE_PERCENT", "101"), ("PLATFORM_FEE_PERCENT", "nan"),
    ("BILLING_PERIOD_SECONDS", "0"), ("BILLING_PERIOD_SECONDS", "-1"), ("BILLING_PERIOD_SECONDS", "1m"),
    ("BILLING_PERIOD_SECONDS", "90000"),  # no video token lasts so long
    ("CALL_GRACE_SECONDS", "-1"), ("CALL_GRACE_SECONDS", "x"), ("RING_TIMEOUT_SECONDS", "0"),
    ("RING_TIMEOUT_SECONDS", "-5"), ("RECONNECT_GRACE_SECONDS", "-1"), ("RECONNECT_GRACE_SECONDS", "inf"),
    ("BILLING_ROUNDING", "minute"), ("BILLING_ROUNDING", "PERIODS"),
    ("MONEY_OPS_PER_MINUTE", "0"), ("MONEY_OPS_PER_MINUTE", "-1"), ("MONEY_OPS_PER_MINUTE", "many"),
    ("RATE_LIMIT_TRUST_LEVELS", "{"), ("RATE_LIMIT_TRUST_LEVELS", "[]"), ("RATE_LIMIT_TRUST_LEVELS", "5"),
    ("RATE_LIMIT_TRUST_LEVELS", '{"basic":"x"}'), ("RATE_LIMIT_TRUST_LEVELS", '{"royal":5}'),
    ("RATE_LIMIT_TRUST_LEVELS", '{"basic":-1,"verified":15,"trusted":30,"vip":50}'),
    ("DAILY_SPEND_LIMIT_CENTS", "-1"), ("DAILY_SPEND_LIMIT_CENTS", "$100"),
    ("IDEMPOTENCY_TTL_SECONDS", "-1"), ("IDEMPOTENCY_TTL_SECONDS", "1d"),
    ("ENABLE_ENHANCED_FEATURES", "maybe"), ("CSP_REPORT_ONLY", "maybe"), ("METER_IN_WEB", "maybe"),
    ("LOG_FORMAT", "xml"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"), ("ENVIRONMENT", "staging"),
    ("CSP_REPORT_URI", "no path\r\nX-Evil: 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda text: text[:24])
def test_a_bad_value_stops_the_start_with_one_line_that_names_it(says: Says, name: str, value: str) -> None:
    code, said = says(**{name: value})
    assert code == 1, "it was taken"
    assert len(said.splitlines()) == 1, said
    assert name in said


GOOD = [
    ("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8, fd00::/8"),
    ("PORT", "1"), ("PORT", "65535"), ("WORKERS", "4"), ("DATABASE_URL", "postgres://u:p@h/x"),
    ("DATABASE_URL", "postgresql://u:p@h:5432/x?sslmode=require"), ("REDIS_URL", "rediss://:p@h:6380/1"),
    ("ALLOWED_ORIGINS", "*"), ("ALLOWED_ORIGINS", "https://a.example.org, http://localhost:5173"),
    ("AGORA_TOKEN_VERSION", "006"), ("PLATFORM_FEE_PERCENT", "0"), ("PLATFORM_FEE_PERCENT", "100"),
    ("BILLING_PERIOD_SECONDS", "1"), ("BILLING_ROUNDING", "second"),
    ("ENABLE_ENHANCED_FEATURES", "false"), ("ENABLE_ENHANCED_FEATURES", "0"), ("CSP_REPORT_ONLY", "true"),
    ("LOG_FORMAT", "json"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"), ("METER_IN_WEB", "0"),
    ("ENVIRONMENT", "development"), ("REDIS_URL", ""), ("DATABASE_URL", ""), ("JWT_SECRET", ""), ("LOG_DIR", ""),
    ("RATE_LIMIT_TRUST_LEVELS", '{"basic":1,"verified":2,"trusted":3,"vip":4}'), ("JWT_JWKS_URL", "https://h/keys"),
    ("JWT_SECRET", "x" * 32), ("SOMETHING_ELSE", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), GOOD, ids=lambda text: text[:24])
def test_a_good_value_is_taken(says: Says, name: str, value: str) -> None:
    assert says(**{name: value}) == (0, "")


@pytest.mark.parametrize(
    "settings",
    [
        {"UPSTASH_REDIS_REST_URL": "https://h.upstash.io"}, {"AGORA_CUSTOMER_ID": "x"}, {"AGORA_APP_ID": AGORA_APP_ID},
        {"UPSTASH_REDIS_REST_TOKEN": "x"}, {"AGORA_CUSTOMER_SECRET": "x"},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_half_of_a_pair_stops_the_start(says: Says, settings: dict[str, str]) -> None:
    code, said = says(**settings)
    assert code == 1
    assert len(said.splitlines()) == 1
    assert next(iter(settings)).rsplit("_", 1)[0] in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:c4n4ry@h/x"), ("DATABASE_URL", "postgresql://u:c4n4ry@h:port/x"),
        ("REDIS_URL", "http://:c4n4ry@h"), ("REDIS_URL", "redis://:c4n4ry@h:port"), ("AGORA_APP_CERTIFICATE", "c4n4ry"),
        ("JWT_SECRET", "c4n4ry"), ("STRIPE_SECRET_KEY", "c4n4ry"), ("STRIPE_WEBHOOK_SECRET", "c4n4ry"),
        ("JWT_JWKS_URL", "ftp://u:c4n4ry@h"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://u:c4n4ry@h"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_bad_value_has_no_secret_in_it(says: Says, name: str, value: str) -> None:
    _, said = says(**{name: value, "ENVIRONMENT": "production"})
    assert "c4n4ry" not in said


PRODUCTION = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://u:p@db.example.org/callmeter",
    "REDIS_URL": "rediss://:p@redis.example.org",
    "JWT_SECRET": "5f1d7a84db1e4e4d9a7a6a5b-a-long-one",
    "ALLOWED_ORIGINS": "https://app.example.org",
    "AGORA_APP_ID": AGORA_APP_ID,
    "AGORA_APP_CERTIFICATE": AGORA_APP_CERTIFICATE,
    "AGORA_WEBHOOK_SECRET": "a-secret-that-agora-knows",
    "STRIPE_SECRET_KEY": "sk_live_51abcdefghijklmnop",
    "STRIPE_WEBHOOK_SECRET": "whsec_abcdefghijklmnopqrstuvwx",
    "STRIPE_PUBLISHABLE_KEY": "pk_live_51abcdefghijklmnop",
}


def test_production_starts_with_everything_it_needs(says: Says) -> None:
    assert says(**PRODUCTION) == (0, "")


@pytest.mark.parametrize("missing", sorted(PRODUCTION.keys() - {"ENVIRONMENT", "STRIPE_PUBLISHABLE_KEY"}))
def test_production_refuses_to_start_without(says: Says, missing: str) -> None:
    for settings in (
        {name: value for name, value in PRODUCTION.items() if name != missing},
        PRODUCTION | {missing: ""},
    ):
        code, said = says(**settings)
        assert code == 1
        assert len(said.splitlines()) == 1
        assert missing in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JWT_SECRET", "secret"), ("JWT_SECRET", "changeme"), ("JWT_SECRET", "x" * 8), ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://app.example.org,*"), ("JWT_SECRET", " "), ("STRIPE_WEBHOOK_SECRET", " "),
    ],
)  # fmt: skip
def test_production_refuses_to_start_on_a_secret_that_is_none(says: Says, name: str, value: str) -> None:
    code, said = says(**PRODUCTION | {name: value})
    assert code == 1
    assert name in said


def test_production_takes_a_key_set_in_the_place_of_a_secret_and_upstash_in_the_place_of_a_redis_url(
    says: Says,
) -> None:
    settings = {name: value for name, value in PRODUCTION.items() if name not in {"JWT_SECRET", "REDIS_URL"}}
    upstash = {"UPSTASH_REDIS_REST_URL": "https://eu1-x.upstash.io", "UPSTASH_REDIS_REST_TOKEN": "AX-token"}
    assert says(**settings, **upstash, JWT_JWKS_URL="https://id.example.org/keys") == (0, "")


def test_a_dotenv_file_is_read_and_the_environment_goes_before_it(
    says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("# a comment\nexport PORT=abc\nWORKERS='2'\nSOMETHING_ELSE=x\n")
    code, said = says()
    assert (code, "PORT" in said) == (1, True)
    assert says(PORT="8080") == (0, "")


# Real processes


def started(environment: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "realtime", *arguments], env=environment, cwd=cwd, text=True, capture_output=True,
        timeout=30, check=False,
    )  # fmt: skip


def test_a_start_that_cannot_be_says_why_in_one_line(
    serve: Serve, tmp_path: Path, database_url: str, empty_database_url: str
) -> None:
    older_database_url = database_url
    migrations.down(older_database_url, "0006")
    with serve() as service:
        good = command_env(service.database_url) | {
            "REDIS_URL": service.redis_url, "PORT": str(free_port()), "JWT_SECRET": JWT_SECRET,
            "STRIPE_SECRET_KEY": "sk_test_nobody", "STRIPE_API_BASE": "http://127.0.0.1:9",
        }  # fmt: skip
        nowhere = f"127.0.0.1:{free_port()}"
        unwritable = tmp_path / "file"
        unwritable.write_text("")
        for reason, changed in {
            "the port is taken": {"PORT": str(service.server.port)},
            "nobody is at the database's address": {"DATABASE_URL": f"postgresql://u:c4n4ry@{nowhere}/x"},
            "there is no such database": {"DATABASE_URL": service.database_url.replace("callmeter_test_", "nowhere_")},
            "the database is not migrated": {"DATABASE_URL": empty_database_url},
            "the database is an older version's": {"DATABASE_URL": older_database_url},
            "the host is not ours": {"HOST": "192.0.2.1"},
            "the host is no host": {"HOST": "no.such.host.invalid"},
            "logs cannot be written": {"LOG_DIR": str(unwritable)},
            "a setting is bad": {"BILLING_PERIOD_SECONDS": "abc"},
        }.items():
            server = Server(["-m", "realtime"], good | changed, tmp_path / f"{reason}.log", cwd=tmp_path)
            assert server.process.wait(30) == 1, reason
            said = server.log.read_text()
            assert "Traceback" not in said, (reason, said[-1500:])
            [line] = [line for line in said.splitlines() if line.startswith("callmeter: ")]
            assert len(line) > 20, (reason, line)
            assert "c4n4ry" not in said


def test_the_dotenv_file_of_the_working_directory_is_read_by_a_real_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BILLING_PERIOD_SECONDS=abc\n")
    done = started({"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, tmp_path)
    assert done.returncode == 1
    assert "BILLING_PERIOD_SECONDS" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_start_asks_for_the_newest_revision_of_the_schema(database_url: str) -> None:
    assert migrations.status(database_url).head == SCHEMA_REVISION
