"""What an operator reads at night: each line says what, whose and why, and an outage is a few lines, not hundreds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from tests.contract.service import Browser, Pairs, Serve, refused
from tests.faults.lines import Line
from tests.servers import Server, eventually

SECRET = {"STRIPE_WEBHOOK_SECRET": "whsec_of_ours"}
OUTAGE = {
    "metering waits for PostgreSQL": "metering again",
    "presence sweep waits for its server": "presence sweep works again",
    "jobs wait for PostgreSQL": "jobs run again",
}
"""What is said of a database that has gone, each once, and of its return."""


def said(server: Server, after: int = 0) -> list[dict[str, Any]]:
    """The whole lines there are by now."""
    return [json.loads(text) for text in server.log.read_text().split("\n")[after:-1]]


async def test_a_call_is_said_with_both_its_people_and_a_refused_event_with_its_reason(
    serve: Serve, browser: Browser, pair: Pairs
) -> None:
    with serve(**SECRET) as service:
        two = await pair(service)
        call_id = (await two.talk())["call"]["id"]
        assert (await two.callee.ask("call:end", {"callId": call_id}))["ok"]
        for _ in range(3):
            answer = await browser.post(
                service, "/api/v1/webhooks/stripe", json={"id": "evt_1"}, headers={"Stripe-Signature": "t=1,v1=00"}
            )
            refused(answer, 400, "signature_invalid")
        lines = said(service.server)
    of_call = {one["event"]: one for one in lines if one.get("call_id") == call_id}
    assert set(of_call) == {"call ringing", "call accepted", "call ended"}
    for one in of_call.values():
        assert (one["caller"], one["callee"]) == (two.caller.user, two.callee.user)
    [warning] = [one for one in lines if one["level"] == "warning"]
    assert "STRIPE_WEBHOOK_SECRET" in warning["event"], "one line that says where to look, however many come"
    requests = [one for one in lines if one.get("route") == "/api/v1/webhooks/stripe"]
    assert [one["code"] for one in requests] == ["signature_invalid"] * 3


async def test_each_outage_of_the_database_is_a_few_lines_and_so_is_its_end(
    serve: Serve, browser: Browser, pair: Pairs, line: Line
) -> None:
    with serve(METER_IN_WEB=0) as service:
        url = f"postgresql://postgres@127.0.0.1:{line.port}{urlsplit(service.database_url).path}"
        server = await asyncio.to_thread(service.start, DATABASE_URL=url, BILLING_PERIOD_SECONDS=1)
        service.servers.append(server)

        async def until_said(events: set[str], after: int) -> list[dict[str, Any]]:
            await eventually(lambda: events <= {one["event"] for one in said(server, after)}, 60)
            return said(server, after)

        for _ in range(2):
            before = len(said(server))
            line.cut()
            lines = await until_said(set(OUTAGE), before)
            loud = [one for one in lines if one["level"] in {"warning", "error"}]
            assert not [one for one in loud if "exception" in one], "nothing in it is unexpected"
            times = Counter(one["event"] for one in loud)
            # Not each try: a connection that died late may begin the outage again, once.
            assert max(times.values()) <= 2, times
            assert len(times) < 2 * len(OUTAGE), "a few lines, whatever job was due at that moment"
            assert all(one["error"] for one in lines if one["event"] in OUTAGE)
            before = len(said(server))
            line.mend()
            await until_said(set(OUTAGE.values()), before)
