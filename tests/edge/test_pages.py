"""The built page as it is served: from a `dist` like Vite's, in a small application."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from realtime.config import Settings
from realtime.edge.middlewares import errors
from realtime.edge.pages import Pages
from realtime.edge.security_headers import security_headers

PAGE = """<!doctype html><meta property="csp-nonce" nonce="__CSP_NONCE__">
<script type="module" nonce="__CSP_NONCE__" src="/assets/index-B3kQ9xYz.js"></script>"""
HTML = {"Accept": "text/html,application/xhtml+xml"}
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text(PAGE)
    (dist / "icon.svg").write_text("<svg/>")
    (dist / ".sources").write_text("123")
    (dist / "assets" / "index-B3kQ9xYz.js").write_text("let x = 1;\n" * 1000)
    (dist / "assets" / "index-Ab_12-cd.css").write_text("a{}")
    (tmp_path / "secret.txt").write_text("not for anybody")
    return dist


@pytest.fixture
async def client(dist: Path) -> AsyncIterator[Client]:
    async def posted(_request: web.Request) -> web.Response:
        return web.Response(text="posted")

    app = web.Application(middlewares=[errors, Pages(dist).middleware])
    app.on_response_prepare.append(security_headers(Settings(_env_file=None)))
    app.router.add_post("/api/thing", posted)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_page_carries_the_nonce_its_policy_names_and_is_never_kept(client: Client) -> None:
    answer = await client.get("/", headers=HTML)
    [nonce] = re.findall(r"script-src [^;]*'nonce-([\w-]+)'", answer.headers["Content-Security-Policy"])
    assert (await answer.text()).count(f'nonce="{nonce}"') == 2
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/ops", "/calls/history", "/ops?range=hour"])
async def test_an_address_of_the_clients_own_is_the_page(client: Client, path: str) -> None:
    answer = await client.get(path, headers=HTML)
    assert (answer.status, answer.content_type) == (200, "text/html")


@pytest.mark.parametrize(
    ("method", "path", "accept", "status"),
    [
        ("GET", "/api/v1/unknown", "text/html", 404),
        ("GET", "/bff/unknown", "text/html", 404),
        ("GET", "/assets/gone-12345678.js", "text/html", 404),
        ("GET", "/favicon.ico", "text/html", 404),
        ("GET", "/ops", "application/json", 404),
        ("POST", "/ops", "text/html", 404),
        ("GET", "/api/thing", "text/html", 405),
    ],
)
async def test_what_is_neither_file_nor_page_is_a_problem(
    client: Client, method: str, path: str, accept: str, status: int
) -> None:
    answer = await client.request(method, path, headers={"Accept": accept})
    assert (answer.status, answer.content_type) == (status, "application/problem+json")


async def test_files_named_by_their_content_are_kept_for_ever_and_others_asked_about(client: Client) -> None:
    for path, content_type in (("index-B3kQ9xYz.js", "text/javascript"), ("index-Ab_12-cd.css", "text/css")):
        answer = await client.get(f"/assets/{path}")
        assert answer.content_type == content_type
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    icon = await client.get("/icon.svg")
    assert (icon.content_type, icon.headers["Cache-Control"]) == ("image/svg+xml", "no-cache")
    again = await client.get("/icon.svg", headers={"If-None-Match": icon.headers["ETag"]})
    assert again.status == 304
    assert await again.read() == b""


async def test_what_compresses_well_is_sent_compressed_to_those_who_take_it(client: Client, dist: Path) -> None:
    path = "/assets/index-B3kQ9xYz.js"
    plain = (dist / path[1:]).read_bytes()
    packed = await client.get(path, headers={"Accept-Encoding": "gzip"}, auto_decompress=False)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(await packed.read()) == plain
    assert packed.headers["Vary"] == "Accept-Encoding"
    unpacked = await client.get(path, headers={"Accept-Encoding": "identity"})
    assert await unpacked.read() == plain


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "//secret.txt",
        "/..\\secret.txt",
        "/.sources",
        "/index.html/../../secret.txt",
        "/%00secret.txt",
    ],
)
async def test_no_path_leads_out_of_the_build(client: Client, path: str) -> None:
    import yarl

    url = yarl.URL(f"http://127.0.0.1:{client.port}{path}", encoded=True)
    answer = await client.session.get(url, headers={"Accept": "*/*"})
    assert answer.status in {400, 404}
    assert b"not for anybody" not in await answer.read()


async def test_a_new_build_is_served_without_a_restart(client: Client, dist: Path) -> None:
    assert (await client.get("/", headers=HTML)).status == 200
    shutil.rmtree(dist)
    assert "is not built" in await (await client.get("/", headers=HTML)).text()
    dist.mkdir()
    (dist / "index.html").write_text("a new page")
    assert await (await client.get("/", headers=HTML)).text() == "a new page"
    assert (await client.get("/icon.svg")).status == 404


async def test_without_a_build_the_page_says_what_is_missing(client: Client, dist: Path) -> None:
    shutil.rmtree(dist)
    answer = await client.get("/", headers=HTML)
    assert (answer.status, answer.content_type) == (200, "text/html")
    assert "npm ci" in await answer.text()
    assert (await client.get("/ops", headers=HTML)).status == 404


async def test_a_head_of_the_page_has_no_body(client: Client) -> None:
    answer = await client.head("/", headers=HTML)
    assert answer.status == 200
    assert await answer.read() == b""
