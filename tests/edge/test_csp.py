"""The policies browsers are given, and the other headers they obey."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest

from realtime.config import Settings
from realtime.edge import csp
from tests.edge.test_sessions import PRODUCTION
from tests.servers import Launch, Server

HTML = {"Accept": "text/html"}


def a_policy(**settings: Any) -> dict[str, list[str]]:
    return parsed(csp.PagePolicy(Settings(_env_file=None, **settings)).with_nonce("n0nce"))


def a_production_policy(**settings: Any) -> dict[str, list[str]]:
    return a_policy(
        **{name.lower(): value for name, value in PRODUCTION.items()},
        database_url="postgresql://db/x", redis_url="redis://r", jwt_secret="s" * 32, agora_app_id="a" * 32,
        agora_app_certificate="b" * 32, **settings,
    )  # fmt: skip


def parsed(policy: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (directive.split() for directive in policy.split(";"))}


def test_a_page_runs_its_own_scripts_and_stripes_and_no_inline_ones_without_the_nonce() -> None:
    policy = a_policy()
    assert policy["default-src"] == ["'self'"]
    assert policy["script-src"] == ["'self'", "'nonce-n0nce'", "https://js.stripe.com", "https://*.js.stripe.com"]
    assert policy["style-src"] == ["'self'", "'nonce-n0nce'"]
    for directive in ("object-src", "base-uri", "frame-ancestors"):
        assert policy[directive] == ["'none'"]


def test_no_directive_allows_inline_code_eval_or_any_host() -> None:
    for sources in a_policy().values():
        assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "https:", "http:", "data:"} & set(sources)
    assert "blob:" not in a_policy()["script-src"]


def test_frames_are_stripes_and_connections_stripes_and_agoras() -> None:
    policy = a_policy()
    assert all(source.endswith(".stripe.com") for source in policy["frame-src"])
    assert "'self'" in policy["connect-src"]
    assert "https://api.stripe.com" in policy["connect-src"]
    assert "wss://*.sd-rtn.com:*" in policy["connect-src"], "Agora's edges are on ports of their own"


def test_a_stand_in_for_stripe_is_let_in_where_there_is_one_and_never_in_production() -> None:
    stand_in = "http://127.0.0.1:8420"
    policy = a_policy(stripe_api_base=stand_in)
    for directive in ("script-src", "connect-src", "frame-src"):
        assert stand_in in policy[directive]
    assert stand_in not in str(a_production_policy(stripe_api_base=stand_in))


def test_two_nonces_are_never_the_same_and_long_enough_not_to_be_guessed() -> None:
    nonces = {csp.new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert all(re.fullmatch(r"[\w-]{24}", nonce) for nonce in nonces)


async def test_each_page_has_a_policy_with_a_nonce_of_its_own(server: Server, http: aiohttp.ClientSession) -> None:
    seen = set()
    for _ in range(3):
        answer = await http.get(f"{server.url}/", headers=HTML)
        assert answer.content_type == "text/html"
        [nonce] = re.findall(r"script-src [^;]*'nonce-([\w-]+)'", answer.headers["Content-Security-Policy"])
        seen.add(nonce)
        assert "__CSP_NONCE__" not in await answer.text()
    assert len(seen) == 3


async def test_reports_go_where_both_ways_of_reporting_look(server: Server, http: aiohttp.ClientSession) -> None:
    answer = await http.get(f"{server.url}/", headers=HTML)
    policy = parsed(answer.headers["Content-Security-Policy"])
    assert policy["report-uri"] == ["/api/csp-report"]
    assert "report-to" not in policy, "over plain HTTP a browser that follows it reports nothing"
    [group] = a_production_policy()["report-to"]
    assert answer.headers["Reporting-Endpoints"] == f'{group}="/api/csp-report"'


async def test_report_only_breaks_nothing_and_reports_elsewhere(launch: Launch, http: aiohttp.ClientSession) -> None:
    server = launch(CSP_REPORT_ONLY="true", CSP_REPORT_URI="https://reports.example.com/csp")
    answer = await http.get(f"{server.url}/", headers=HTML)
    assert "Content-Security-Policy" not in answer.headers
    policy = parsed(answer.headers["Content-Security-Policy-Report-Only"])
    assert policy["report-uri"] == ["https://reports.example.com/csp"]
    assert answer.headers["Reporting-Endpoints"] == 'csp="https://reports.example.com/csp"'
    api = await http.get(f"{server.url}/health")
    assert api.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("uri", ["/x; script-src *", "/with space", '/quote"', "/a,b", "/line\nbreak", ""])
async def test_a_report_uri_that_would_end_the_directive_stops_the_start(uri: str) -> None:
    with pytest.raises(ValueError, match="csp_report_uri"):
        Settings(_env_file=None, csp_report_uri=uri)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/api/v1/balance", 401),
        ("GET", "/api/nothing-here", 404),
        ("POST", "/health", 405),
        ("POST", "/api/v1/nothing", 404),
        ("GET", "/openapi.json", 200),
        ("OPTIONS", "/api/v1/balance", 405),
    ],
)
async def test_whatever_is_not_a_page_may_do_nothing_in_a_browser(
    server: Server, http: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, server.url + path)
    assert answer.status == status
    assert parsed(answer.headers["Content-Security-Policy"])["default-src"] == ["'none'"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "aiohttp" not in answer.headers["Server"]


async def test_a_page_may_use_camera_and_microphone_and_stripe_may_ask_for_payment(
    server: Server, http: aiohttp.ClientSession
) -> None:
    answer = await http.get(f"{server.url}/", headers=HTML)
    allowed = dict(part.split("=", 1) for part in answer.headers["Permissions-Policy"].split(", "))
    assert allowed["camera"] == allowed["microphone"] == "(self)"
    assert allowed["geolocation"] == "()"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin-allow-popups"
    assert answer.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    assert "Strict-Transport-Security" not in answer.headers, "development has no TLS to insist on"
