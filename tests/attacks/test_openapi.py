"""Schemathesis on the whole OpenAPI document: whatever it says may be sent, and whatever it says may not, is answered
as it says, by a server that goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.service import Serve, Service
from tests.payments.stripe import KEY, SECRET
from tests.servers import ROOT, token_of

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
LEFT_OUT = {
    # Tokens, cookies and signatures cannot be generated; who may do what is test_authorization's.
    "ignored_auth", "positive_data_acceptance",
    # A path that is no route may be the page's.
    "unsupported_method",
}  # fmt: skip


@pytest.fixture(scope="module")
def service(serve: Serve, stripe_url: str) -> Iterator[Service]:
    stripe = {"STRIPE_SECRET_KEY": KEY, "STRIPE_API_BASE": stripe_url, "STRIPE_WEBHOOK_SECRET": SECRET}
    with serve(MONEY_OPS_PER_MINUTE=100_000, AGORA_WEBHOOK_SECRET="x", **stripe) as service:
        yield service


def test_the_server_answers_as_its_document_says_whatever_it_is_sent(service: Service, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "schemathesis"
    command = [
        program, "run", f"{service.url}/openapi.json", "--checks", "all", "--exclude-checks", ",".join(LEFT_OUT),
        "--header", f"Authorization: Bearer {token_of('fuzzer', role='admin')}",
        "--phases", "examples,coverage,fuzzing",
        "--max-examples", str(EXAMPLES), "--seed", "1", "--no-shrink", "--max-failures", "20", "--warnings", "off",
        # One thread: Python 3.11 keeps one count of recursion for all threads that parse, and the generator parses.
        "--request-timeout", "10", "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(
        [str(part) for part in command], cwd=tmp_path, text=True, capture_output=True, timeout=200, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "160"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    log = service.server.log.read_text()
    assert "a request failed" not in log, "nothing met a fault of ours on the way"
