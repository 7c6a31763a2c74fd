"""deploy/nginx.conf in an nginx, in front of two servers of ours, with the official JavaScript client behind it."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.edge.csp_reports import REQUESTS_PER_MINUTE
from tests.servers import ROOT, Launch, Opens, Server, eventually, free_port, token_of

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
REPORT = {"csp-report": {"effective-directive": "img-src", "blocked-uri": "inline"}}


@pytest.fixture(scope="module")
def nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = "nginx is not on this machine: deploy/nginx.conf cannot be tried"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def main_configuration(directory: Path, http: str) -> Path:
    """What a distribution has around the http block, with everything in `directory`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    kept = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    user = "user root;" if os.getuid() == 0 else ""
    path = directory / "nginx.conf"
    path.write_text(
        f"{user} daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; events {{}}\n"
        f"http {{ access_log off; {kept}\n{http}\n}}\n"
    )
    return path


class Front:
    """An nginx with our configuration, its ports and servers replaced by those of a test."""

    def __init__(self, nginx: str, directory: Path, servers: list[Server]) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        ours = CONFIGURATION.read_text().replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
        ours = re.sub(r"\n *ssl_certificate\w* .*", "", ours)
        for written, server in zip(("127.0.0.1:8080", "127.0.0.1:8081"), servers, strict=True):
            assert written in ours
            ours = ours.replace(written, f"127.0.0.1:{server.port}")
        path = main_configuration(directory, ours)
        self.process = subprocess.Popen([nginx, "-p", directory, "-c", path, "-e", directory / "error.log"])

    async def answers(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(self.url + "/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@pytest.fixture
def behind_nginx(nginx: str, launch: Launch, tmp_path: Path) -> Iterator[tuple[Front, list[Server]]]:
    servers = [launch(TRUSTED_PROXIES="127.0.0.1") for _ in range(2)]
    directory = tmp_path / "nginx"
    directory.mkdir()
    front = Front(nginx, directory, servers)
    yield front, servers
    front.process.terminate()
    front.process.wait(30)


async def connects(http: aiohttp.ClientSession, server: Server) -> float:
    async with http.get(server.url + "/metrics") as answer:
        text = await answer.text()
    return sum(float(n) for n in re.findall(r'^callmeter_socket_connects_total{outcome="ok"} (.+)', text, re.M))


async def test_tabs_come_through_move_when_their_process_is_stopped_and_are_known_by_their_own_address(
    behind_nginx: tuple[Front, list[Server]], open_javascript_tab: Opens, http: aiohttp.ClientSession
) -> None:
    front, servers = behind_nginx
    await eventually(lambda: front.answers(http))
    admin = {"Authorization": f"Bearer {token_of('root', role='admin')}", "Idempotency-Key": uuid4().hex}
    grant = {"userId": "ann", "tokens": 1000, "reason": "a test"}
    async with http.post(front.url + "/api/v1/admin/grants", json=grant, headers=admin) as answer:
        assert answer.status == 200
    async with http.get(front.url + "/metrics") as answer:
        assert answer.status == 403, "figures are not for everybody"

    ann = await open_javascript_tab(front, "ann", reconnect=True)
    bob = await open_javascript_tab(front, "bob", transports="polling", reconnect=True)
    mia = await open_javascript_tab(front, "ann", transports="polling,websocket", reconnect=True)
    call = (await ann.ask("call:start", {"calleeId": "bob", "requestId": "one"}))["call"]
    await eventually(lambda: bob.told("call:incoming"))
    assert (await bob.ask("call:accept", {"callId": call["id"]}))["ok"]
    await eventually(lambda: ann.told("call:accepted") and mia.told("call:accepted"))

    # All come from one address, so one process has them. It is stopped as a deploy stops it, and they go to the other.
    counts = [await connects(http, server) for server in servers]
    assert sorted(counts) == [0, 3]
    theirs, other = servers if counts[0] else reversed(servers)
    before = {tab: tab.sid for tab in (ann, bob, mia)}
    assert await asyncio.to_thread(theirs.stop) == 0
    await eventually(lambda: all(tab.sid != sid for tab, sid in before.items()))
    assert await connects(http, other) == 3
    ended = (await ann.ask("call:end", {"callId": call["id"]}))["call"]
    assert (ended["endReason"], ended["periodsBilled"]) == ("hangup", 1)
    await eventually(lambda: bob.told("call:ended"))

    # Reports are limited by the client's address: not by nginx's, nor by what a client claims.
    async def report(number: int, session: aiohttp.ClientSession) -> int:
        headers = {"Content-Type": "application/csp-report", "X-Forwarded-For": f"198.51.100.{number}"}
        async with session.post(front.url + "/api/csp-report", json=REPORT, headers=headers) as answer:
            return answer.status

    said = [await report(number, http) for number in range(REQUESTS_PER_MINUTE + 1)]
    assert said == [*itertools.repeat(204, REQUESTS_PER_MINUTE), 429]
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.9", 0))
    async with aiohttp.ClientSession(connector=elsewhere) as somebody_else:
        assert await report(1, somebody_else) == 204


def test_nginx_takes_the_configuration_as_it_stands(nginx: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "calls.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "calls.example.com.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "calls.example.com.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    ours = CONFIGURATION.read_text().replace("/etc/ssl", str(tmp_path))
    path = main_configuration(tmp_path, ours)
    command = [nginx, "-t", "-q", "-p", tmp_path, "-c", path]
    tried = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert (tried.returncode, tried.stderr) == (0, "")
