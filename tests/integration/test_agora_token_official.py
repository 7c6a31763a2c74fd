"""Our tokens in the hands of Agora's own library, the npm package agora-token."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from realtime.adapters.agora_tokens import MAX_UID, TokenIssuer
from tests.agora_tokens import describe, payload_007

NODE = Path(__file__).parents[1] / "node"
APP_ID = "970CA35de60c44645bbae8a215061b33"
CERTIFICATE = "5CFd2fd1755d40ecb72977518be15d3b"
NOW = 1_760_000_000
IDENTITIES = [("call_1", 1), ("call_" + "0" * 32, 2), ("~" * 64, MAX_UID), ("a b!#$%&()+-:;<=.>?@[]^_{}|~,", 12121212)]


@pytest.fixture(scope="module")
def node() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("node and npm are needed for Agora's own library")
    with (NODE / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests running side by side install it once
        if not (NODE / "node_modules" / "agora-token").is_dir():
            install = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=NODE,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            if install.returncode:
                pytest.skip(f"npm ci in tests/node failed: {install.stderr.strip()[-300:]}")
    return node


def read_officially(node: str, tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    read = subprocess.run(
        [node, "read_agora_tokens.js"],
        cwd=NODE,
        input="\n".join(map(json.dumps, tokens)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in read.stdout.splitlines()]


def asked(version: str, channel: str, uid: int, certificate: str = CERTIFICATE) -> dict[str, Any]:
    token = TokenIssuer(APP_ID, CERTIFICATE, version).issue(channel, uid, NOW, NOW + 70)
    return {"token": token, "certificate": certificate, "appId": APP_ID, "channel": channel, "uid": uid}


def test_agoras_own_library_reads_our_007_tokens_as_they_are_meant_and_builds_the_same(node):
    tokens = [asked("007", channel, uid) for channel, uid in IDENTITIES]
    for given, said in zip(tokens, read_officially(node, tokens), strict=True):
        assert payload_007(said.pop("rebuilt")) == payload_007(given["token"])
        assert said == {
            "ok": True,
            "genuine": True,
            "appId": APP_ID,
            "issuedAt": NOW,
            "lifetimeS": 70,
            "services": 1,
            "privileges": {"1": 70, "2": 70, "3": 70, "4": 70},
            "channel": given["channel"],
            "account": str(given["uid"]),
        }


def test_agoras_own_library_sees_that_a_007_token_is_of_another_certificate(node):
    [said] = read_officially(node, [asked("007", "call_1", 1, certificate=CERTIFICATE[::-1])])
    assert said["ok"]
    assert not said["genuine"]


def test_agoras_own_library_reads_our_006_tokens_and_builds_the_same(node):
    tokens = [asked("006", channel, uid) for channel, uid in IDENTITIES]
    for given, said in zip(tokens, read_officially(node, tokens), strict=True):
        assert said["ok"]
        assert said["rebuilt"] == given["token"]
        assert said["privileges"] == dict.fromkeys("1234", NOW + 70)


def test_a_token_agoras_own_library_built_is_genuine_to_our_reader(node):
    [said] = read_officially(node, [asked("007", "call_1", 1)])
    assert describe(said["rebuilt"]).is_genuine(CERTIFICATE, "call_1", 1)
