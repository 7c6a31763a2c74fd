"""What a financial operation leaves behind: one log line, one audit row, and nothing secret in either."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from tests.payments.conftest import Answer, Buyer, LaunchPaying, Ledger, send
from tests.payments.stripe import AUTHENTICATED_CARD, CARD, DECLINED_CARD, KEY, SECRET, Stripe, event
from tests.servers import JWT_SECRET, ROOT, Tab, eventually, token_of

CANARY = "canary"


def lines(buyer: Buyer, said: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in buyer.server.log.read_text().splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry["event"] == said]


async def audit_rows(ledger: Ledger) -> int:
    """Of operations: that an account was opened has a row of its own."""
    return int(await ledger.conn.fetchval("SELECT count(*) FROM financial_audit_log WHERE action <> 'accounts'"))


async def test_each_operation_is_one_log_line_and_one_audit_row(
    buyer: Buyer, admin: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    purchase = (await buyer.buy(await stripe.card(), 500)).body["purchaseId"]
    [line] = lines(buyer, "purchase succeeded")
    assert line.items() >= {"purchase_id": purchase, "user_id": "ann", "amount_cents": 500, "tokens": 500}.items()
    assert await audit_rows(ledger) == 1

    await buyer.buy(await stripe.card(DECLINED_CARD), 600)
    [line] = lines(buyer, "purchase failed")
    assert line.items() >= {"user_id": "ann", "amount_cents": 600, "decline_code": "card_declined"}.items()
    assert await audit_rows(ledger) == 2

    grant = {"userId": "bob", "tokens": 5, "reason": "welcome"}
    await admin.ask("POST", "/api/v1/admin/grants", grant, Idempotency_Key="g")
    [line] = lines(buyer, "tokens granted")
    assert line.items() >= {"user_id": "bob", "tokens": 5}.items()
    assert line["by"] != "bob"
    assert await audit_rows(ledger) == 3

    await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase}, Idempotency_Key="r")
    [line] = lines(buyer, "purchase reversed")
    assert line.items() >= {"purchase_id": purchase, "cents": 500, "wallet_tokens": 500, "owed_tokens": 0}.items()
    assert await audit_rows(ledger) == 4


async def written(buyer: Buyer, ledger: Ledger, logs: Path) -> dict[str, str]:
    """Everything that is kept of what happened, besides the tables the money itself is in."""
    audit = await ledger.conn.fetch("SELECT l::text AS row FROM financial_audit_log l")
    return {
        "console": buyer.server.log.read_text(),
        "files": "".join(file.read_text() for file in logs.iterdir()),
        "audit": "\n".join(row["row"] for row in audit),
        "events": str(await ledger.conn.fetch("SELECT facts FROM stripe_events")),
    }


def nothing_of(secrets: Iterable[str], texts: dict[str, str]) -> None:
    for where, text in texts.items():
        for secret in secrets:
            assert secret not in text, f"{secret} is in the {where}"


async def test_no_secret_reaches_the_logs_or_the_audit(
    launch_paying: LaunchPaying, stripe: Stripe, ledger: Ledger, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    buyer = launch_paying(LOG_DIR=logs, STRIPE_SECRET_KEY=f"{KEY}_{CANARY}", STRIPE_WEBHOOK_SECRET=f"whsec_{CANARY}")
    admin = Buyer(http, buyer.server, "root", role="admin")
    card = await stripe.card()
    asked = (await buyer.buy(await stripe.card(AUTHENTICATED_CARD), key=f"key-{CANARY}")).body
    answers: list[Answer] = [
        await buyer.buy(card, key=f"k1-{CANARY}"),
        await buyer.buy(await stripe.card(DECLINED_CARD), key=f"k2-{CANARY}"),
        await buyer.buy(f"pm_{CANARY}", key=f"k3-{CANARY}"),
        await buyer.buy(card, CANARY, key=f"k4-{CANARY}"),  # type: ignore[arg-type]
        await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": CANARY}, Idempotency_Key=f"r-{CANARY}"),
        await send(buyer.server, http, event(CANARY, {"id": CANARY}), f"whsec_{CANARY}"),
        await send(buyer.server, http, event("charge.refunded", {"billing": CANARY}), SECRET),
    ]
    assert [answer.status for answer in answers[:3]] == [200, 402, 400]
    # Faults of ours: a row the database refuses, which it quotes, and a table that is gone; both leave a traceback.
    await ledger.conn.execute("ALTER TABLE purchases ADD CONSTRAINT no_777 CHECK (amount_cents <> 777)")
    assert (await buyer.buy(card, 777, key=f"k5-{CANARY}")).status == 500
    await ledger.conn.execute("ALTER TABLE purchases RENAME TO elsewhere")
    assert (await buyer.buy(card, key=f"k6-{CANARY}")).status == 500
    await ledger.conn.execute("ALTER TABLE elsewhere RENAME TO purchases")
    await eventually(lambda: "UndefinedTable" in (logs / "callmeter-web.jsonl").read_text())
    assert "no_777" in (logs / "callmeter-web.jsonl").read_text()

    client_secret = asked["clientSecret"].split("_secret_")[1]
    texts = await written(buyer, ledger, logs)
    nothing_of((CANARY, CARD, DECLINED_CARD, KEY, SECRET, JWT_SECRET, client_secret, token_of("ann")[:30], card), texts)


async def test_no_route_and_no_event_writes_down_what_it_was_sent(
    launch_paying: LaunchPaying, ledger: Ledger, http: aiohttp.ClientSession, tmp_path: Path, open_tab: Any
) -> None:
    logs = tmp_path / "logs"
    buyer = launch_paying(LOG_DIR=logs, AGORA_WEBHOOK_SECRET=f"agora_{CANARY}")
    admin = Buyer(http, buyer.server, "root", role="admin")
    body = {CANARY: CANARY, "card": {"number": CARD, "cvc": CANARY}, "token": CANARY, "userId": {CANARY: CANARY}}
    named = ("Idempotency-Key", "X-CSRF-Token", "Stripe-Signature", "Agora-Signature", "Referer", "User-Agent")
    headers = dict.fromkeys(named, CANARY) | {"Cookie": f"callmeter_session={CANARY}"}
    asked = 0
    for path, operations in (await buyer.ask("GET", "/openapi.json")).body["paths"].items():
        filled = re.sub(r"{\w+}", CANARY, path) + f"?cursor={CANARY}&limit={CANARY}&{CANARY}={CARD}"
        for method in operations:
            for caller in (buyer, admin):
                answer = await caller.ask(method.upper(), filled, body, **headers)
                assert answer.status < 500, (method, path)
            assert (await buyer.ask(method.upper(), filled, body, Authorization=f"Bearer {CANARY}")).status < 500
            asked += 1
    assert asked > 25
    report = {"csp-report": {"document-uri": f"https://x/?{CANARY}", "script-sample": CANARY, "blocked-uri": "inline"}}
    assert (await buyer.ask("POST", "/api/csp-report", report, Content_Type="application/csp-report")).status == 204

    session = (await buyer.ask("POST", "/bff/session")).headers["Set-Cookie"].split(";")[0]
    csrf = (await buyer.ask("GET", "/bff/session", Cookie=session)).body["csrfToken"]
    await http.delete(f"{buyer.server.url}/bff/session", headers={"Cookie": session, "X-CSRF-Token": csrf})

    tab = await open_tab(buyer.server, "ann")
    for name in (await buyer.ask("GET", "/asyncapi.json")).body["channels"]:
        await tab.client.emit(name, {"callId": CANARY, "calleeId": CANARY, "requestId": CANARY, "token": CANARY})
    await tab.ask("balance:get")
    with pytest.raises(socketio.exceptions.ConnectionError):
        await Tab(buyer.server, "ann", CANARY).connect()

    texts = await written(buyer, ledger, logs)
    assert '"status": 400' in texts["files"]
    nothing_of((CANARY, CARD, JWT_SECRET, token_of("ann")[:30], session.split("=")[1], csrf), texts)


async def test_lines_are_written_for_what_was_committed_and_for_nothing_else(
    buyer: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    """The database refuses the commit of a purchase once, when all of its work is done."""
    await ledger.conn.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON purchases DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.status = 'succeeded') EXECUTE FUNCTION refuse();
    """)
    card = await stripe.card()
    assert (await buyer.buy(card, key="k")).status == 500
    assert (len(await stripe.charges()), lines(buyer, "purchase succeeded"), await audit_rows(ledger)) == (1, [], 0)
    await ledger.conn.execute("DROP TRIGGER refuse ON purchases")

    async def answered() -> bool:
        return (await buyer.buy(card, key="k")).status == 200

    await eventually(answered)
    assert (len(lines(buyer, "purchase succeeded")), await audit_rows(ledger)) == (1, 1)
    assert len(await stripe.charges()) == 1
    ledger.prove()


def test_log_files_are_rotated_and_the_oldest_go(tmp_path: Path) -> None:
    program = """if True:
        import sys, structlog
        from realtime.adapters import logs
        logs.FILE_BYTES, logs.FILES_KEPT = 2000, 3
        logs.configure(log_format="console", log_dir=sys.argv[1], role="web")
        for number in range(100):
            structlog.get_logger().info("a line", number=number)
    """
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program, tmp_path], env=env, check=True, capture_output=True, timeout=60)
    files = sorted(tmp_path.glob("*.jsonl*"))
    assert [file.name for file in files] == ["callmeter-web.jsonl", *(f"callmeter-web.jsonl.{n}" for n in (1, 2, 3))]
    assert all(file.stat().st_size <= 2000 for file in files)
    newest = [
        json.loads(line)["number"] for file in [*files[:0:-1], files[0]] for line in file.read_text().splitlines()
    ]
    assert newest == list(range(newest[0], 100))


async def test_logs_are_json_lines_in_rotating_files(
    launch_paying: LaunchPaying, stripe: Stripe, tmp_path: Path
) -> None:
    buyer = launch_paying(LOG_DIR=tmp_path / "logs", LOG_FORMAT="json")
    await buyer.buy(await stripe.card())
    text = (tmp_path / "logs" / "callmeter-web.jsonl").read_text()
    assert "purchase succeeded" in [json.loads(line)["event"] for line in text.splitlines()]
