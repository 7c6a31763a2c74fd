"""What a financial operation leaves behind: one log line, one audit row, and nothing secret in either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.payments.conftest import Answer, Buyer, LaunchPaying, Ledger, send
from tests.payments.stripe import AUTHENTICATED_CARD, CARD, DECLINED_CARD, KEY, SECRET, Stripe, event
from tests.servers import JWT_SECRET, eventually, token_of

CANARY = "canary"


def lines(buyer: Buyer, said: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in buyer.server.log.read_text().splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry["event"] == said]


async def audit_rows(ledger: Ledger) -> int:
    return int(await ledger.conn.fetchval("SELECT count(*) FROM financial_audit_log"))


async def test_each_operation_is_one_log_line_and_one_audit_row(
    buyer: Buyer, admin: Buyer, stripe: Stripe, ledger: Ledger
) -> None:
    purchase = (await buyer.buy(await stripe.card(), 500)).body["purchaseId"]
    [line] = lines(buyer, "purchase succeeded")
    assert line.items() >= {"purchase_id": purchase, "user": "ann", "amount_cents": 500, "tokens": 500}.items()
    assert await audit_rows(ledger) == 1

    await buyer.buy(await stripe.card(DECLINED_CARD), 600)
    [line] = lines(buyer, "purchase failed")
    assert line.items() >= {"user": "ann", "amount_cents": 600, "decline_code": "card_declined"}.items()
    assert await audit_rows(ledger) == 2

    grant = {"userId": "bob", "tokens": 5, "reason": "welcome"}
    await admin.ask("POST", "/api/v1/admin/grants", grant, Idempotency_Key="g")
    assert len(lines(buyer, "tokens granted")) == 1
    assert await audit_rows(ledger) == 3

    await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": purchase}, Idempotency_Key="r")
    [line] = lines(buyer, "purchase reversed")
    assert line.items() >= {"purchase_id": purchase, "cents": 500, "wallet_tokens": 500, "owed_tokens": 0}.items()
    assert await audit_rows(ledger) == 4


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
        await buyer.ask("POST", "/api/v1/payments/purchase-tokens", {CANARY: CANARY, "card": {"number": CARD}}),
        await admin.ask("POST", "/api/v1/admin/grants", {CANARY: CANARY}, Idempotency_Key=f"g-{CANARY}"),
        await admin.ask("POST", "/api/v1/admin/refunds", {"purchaseId": CANARY}, Idempotency_Key=f"r-{CANARY}"),
        await buyer.ask("GET", f"/api/v1/payments/purchases/{CANARY}"),
        await send(buyer.server, http, event(CANARY, {"id": CANARY}), f"whsec_{CANARY}"),
        await send(buyer.server, http, event("charge.refunded", {"billing": CANARY}), SECRET),
    ]
    assert [answer.status for answer in answers[:3]] == [200, 402, 400]
    # A fault of ours: the database loses a table, and the tracebacks must not tell what the request held.
    await ledger.conn.execute("ALTER TABLE purchases RENAME TO elsewhere")
    assert (await buyer.buy(card, key=f"k5-{CANARY}")).status == 500
    await ledger.conn.execute("ALTER TABLE elsewhere RENAME TO purchases")
    await eventually(lambda: "a request failed" in (logs / "callmeter.jsonl").read_text())

    client_secret = asked["clientSecret"].split("_secret_")[1]
    audit = await ledger.conn.fetch("SELECT l::text AS row FROM financial_audit_log l")
    written = {
        "console": buyer.server.log.read_text(),
        "files": "".join(file.read_text() for file in logs.iterdir()),
        "audit": "\n".join(row["row"] for row in audit),
        "events": str(await ledger.conn.fetch("SELECT facts FROM stripe_events")),
    }
    for where, text in written.items():
        for secret in (CANARY, CARD, DECLINED_CARD, KEY, SECRET, JWT_SECRET, client_secret, token_of("ann")[:30], card):
            assert secret not in text, f"{secret} is in the {where}"


async def test_logs_are_json_lines_in_rotating_files(
    launch_paying: LaunchPaying, stripe: Stripe, tmp_path: Path
) -> None:
    buyer = launch_paying(LOG_DIR=tmp_path / "logs", LOG_FORMAT="json")
    await buyer.buy(await stripe.card())
    text = (tmp_path / "logs" / "callmeter.jsonl").read_text()
    assert "purchase succeeded" in [json.loads(line)["event"] for line in text.splitlines()]
