"""What /metrics says of real traffic, by name and unit, with labels nobody outside can multiply."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import asyncpg
import pytest
import socketio
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from realtime.adapters.metrics import DIRECTORY, Metrics, forget_process, shared_directory
from realtime.adapters.tracing import Tracing
from realtime.adapters.vendor_calls import Traced
from tests.contract.service import raw_socket
from tests.metering import active_calls, grant
from tests.servers import ROOT, Launch, Opens, Server, eventually, token_of

Samples = dict[str, float]


def samples_of(text: str) -> Samples:
    def each() -> Iterator[tuple[str, float]]:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                yield f"{sample.name}{{{labels}}}" if labels else sample.name, sample.value

    return dict(each())


async def scraped(http: aiohttp.ClientSession, server: Server) -> Samples:
    answer = await http.get(f"{server.url}/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return samples_of(await answer.text())


async def test_what_a_call_does_is_measured(
    launch: Launch, http: aiohttp.ClientSession, open_tab: Opens, db: asyncpg.Connection
) -> None:
    server = launch(BILLING_PERIOD_SECONDS=1)
    await grant(db, "ann", 30)
    ann, bob = await open_tab(server, "ann"), await open_tab(server, "bob")
    started = await ann.ask("call:start", {"calleeId": "bob", "requestId": "r"})
    await eventually(lambda: bob.told("call:incoming"))
    await bob.ask("call:accept", {"callId": started["call"]["id"]})
    await eventually(lambda: ann.told("call:ended"))
    await ann.ask("call:start", {})
    await bob.close()

    async def measured() -> Samples | None:
        found = await scraped(http, server)
        return found if found["callmeter_socket_tabs"] == 1 else None

    found = await eventually(measured)
    assert found["callmeter_meter_debits_total{outcome=posted}"] == 3, "the first period, billed by the answer, as well"
    assert found["callmeter_meter_debits_total{outcome=insufficient_funds}"] == 1
    assert found["callmeter_meter_batch_calls_sum"] == 3
    assert found["callmeter_meter_batch_duration_seconds_count"] == 3
    assert found["callmeter_meter_debit_lag_seconds_count"] == 3
    assert found["callmeter_meter_debit_lag_seconds_sum"] > 0
    assert found["callmeter_socket_connects_total{outcome=ok}"] == 2
    assert found["callmeter_socket_events_total{event=call:start,outcome=ok}"] == 1
    assert found["callmeter_socket_events_total{event=call:start,outcome=invalid_payload}"] == 1
    assert found["callmeter_socket_event_duration_seconds_count{event=call:accept}"] == 1
    assert sum(value for name, value in found.items() if name.startswith("callmeter_socket_disconnects_total")) == 1
    assert found["callmeter_db_pool_wait_duration_seconds_count"] > 0
    assert found["callmeter_db_pool_limit_connections"] == 10
    assert found["process_resident_memory_bytes"] > 0


async def test_what_it_depends_on_is_measured(server: Server, http: aiohttp.ClientSession) -> None:
    async def sampled() -> Samples | None:
        found = await scraped(http, server)
        up = [found.get(f"callmeter_dependency_up{{server={name}}}") for name in ("redis", "postgresql")]
        return found if up == [1, 1] else None

    found = await eventually(sampled)
    assert found["callmeter_redis_memory_bytes"] > 0
    assert found["callmeter_redis_ping_duration_seconds_count"] >= 1
    assert found["callmeter_meter_due_lag_seconds"] == 0
    assert found["callmeter_live_calls{status=active}"] == 0


async def test_how_long_calls_have_been_due_is_measured_while_nobody_meters(
    launch: Launch, http: aiohttp.ClientSession, db: asyncpg.Connection
) -> None:
    server = launch(METER_IN_WEB=0)
    began = datetime.now(UTC) - timedelta(seconds=300)
    await active_calls(db, 3, started_at=began, tokens=10, grace_s=36_000)

    async def sampled() -> Samples | None:
        found = await scraped(http, server)
        return found if found.get("callmeter_live_calls{status=active}") == 3 else None

    found = await eventually(sampled)
    lag_s = found["callmeter_meter_due_lag_seconds"]
    assert 300 <= lag_s <= (datetime.now(UTC) - began).total_seconds()
    assert found.get("callmeter_meter_debits_total{outcome=posted}", 0) == 0


async def test_a_tab_that_was_lost_and_is_back_is_a_reconnection(
    server: Server, http: aiohttp.ClientSession, open_tab: Opens
) -> None:
    before = await scraped(http, server)
    lost = await open_tab(server, "lost")
    await lost.client.eio.ws.close()  # without a word, as a network does it
    await eventually(lambda: not lost.client.connected)

    async def dropped() -> bool:
        found = await scraped(http, server)
        names = [
            f"callmeter_socket_disconnects_total{{reason={reason}}}"
            for reason in ("transport close", "transport error")
        ]
        return sum(found.get(name, 0) - before.get(name, 0) for name in names) == 1

    await eventually(dropped)
    await open_tab(server, "lost")
    await open_tab(server, "new")
    found = await scraped(http, server)
    assert found["callmeter_socket_reconnects_total"] - before["callmeter_socket_reconnects_total"] == 1


@pytest.mark.parametrize("goodbye", ["41", "1"], ids=["leaves the namespace", "closes the connection"])
async def test_a_tab_that_says_goodbye_left_by_itself_and_is_no_reconnection_when_it_is_back(
    server: Server, http: aiohttp.ClientSession, open_tab: Opens, goodbye: str
) -> None:
    before = await scraped(http, server)
    name = "callmeter_socket_disconnects_total{reason=client disconnect}"
    user = f"polite-{goodbye}"
    async with raw_socket(server, user) as tab:
        await tab.say(goodbye)

        async def left() -> bool:
            return (await scraped(http, server)).get(name, 0) - before.get(name, 0) == 1

        await eventually(left)
    await open_tab(server, user)
    found = await scraped(http, server)
    assert found[name] - before.get(name, 0) == 1, "its socket has closed since, which is no second drop"
    again = "callmeter_socket_reconnects_total"
    assert found[again] == before[again]


async def test_refused_handshakes_are_counted_by_why(
    server: Server, http: aiohttp.ClientSession, open_tab: Opens
) -> None:
    before = await scraped(http, server)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await open_tab(server, "ann", exp=1)
    found = await scraped(http, server)
    name = "callmeter_socket_connects_total{outcome=unauthenticated}"
    assert found[name] - before.get(name, 0) == 1


async def test_no_path_or_method_of_a_client_becomes_a_label(server: Server, http: aiohttp.ClientSession) -> None:
    await http.get(f"{server.url}/api/v1/calls/eve-1", headers={"Authorization": f"Bearer {token_of('eve-2')}"})
    await http.get(f"{server.url}/eve-3/x")
    await http.get(f"{server.url}/eve-4", headers={"Accept": "text/html"})
    await http.request("EVE5", f"{server.url}/health")
    await http.post(f"{server.url}/api/csp-report", data=b'{"csp-report": {"violated-directive": "eve-6"}}',
                    headers={"Content-Type": "application/csp-report"})  # fmt: skip
    found = await scraped(http, server)
    assert not [name for name in found if re.search(r"eve-?\d", name.lower())]
    routes = {match for name in found for match in re.findall(r"route=([^,}]+)", name)}
    assert {"/api/v1/calls/{callId}", "unmatched", "page"} & routes


async def test_every_name_says_whose_it_is_and_its_unit(server: Server, http: aiohttp.ClientSession) -> None:
    answer = await http.get(f"{server.url}/metrics")
    families = [family for family in text_string_to_metric_families(await answer.text())
                if family.name.startswith("callmeter_")]  # fmt: skip
    assert families
    for family in families:
        assert re.fullmatch(r"[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_calls"))


COUNTS = """
import os, sys
from realtime.adapters.metrics import Metrics
metrics = Metrics()
metrics.billed("posted")
metrics.tabs.set(int(sys.argv[1]))
metrics.due_lag_seconds.set(int(sys.argv[1]))
metrics.http_request("GET", "/health", 200, 0.004)
print("ready", flush=True)
sys.stdin.read()
print(metrics.text()[0].decode())
"""


def test_a_scrape_of_one_of_several_processes_sees_them_all(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    with shared_directory(env, str(tmp_path)):
        directory = Path(env[DIRECTORY])
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COUNTS, str(number)], cwd=ROOT, env=env, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for number in (3, 4, 5)
        ]  # fmt: skip
        first, second, ended = processes
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        ended.kill()
        ended.communicate()
        forget_process(ended.pid, directory)
        found = samples_of(first.communicate()[0])
        second.communicate()
    assert found["callmeter_meter_debits_total{outcome=posted}"] == 3, "what an ended process counted stays counted"
    assert found["callmeter_socket_tabs"] == 7, "its tabs are gone"
    assert found["callmeter_meter_due_lag_seconds"] in {3, 4}, "one database, one lag: not a sum"
    assert found["callmeter_http_request_duration_seconds_count{method=GET,route=/health,status=200}"] == 3
    assert not directory.exists()


def test_a_wait_that_fails_is_counted_and_over() -> None:
    metrics = Metrics()
    try:
        with metrics.waiting_for_connection():
            assert samples_of(metrics.text()[0].decode())["callmeter_db_pool_waiting"] == 1
            raise TimeoutError
    except TimeoutError:
        pass
    found = samples_of(metrics.text()[0].decode())
    assert found["callmeter_db_pool_waiting"] == 0
    assert found["callmeter_db_pool_wait_failures_total"] == 1


async def test_metrics_are_answered_while_everything_else_is_away(
    launch: Launch, http: aiohttp.ClientSession, db: asyncpg.Connection
) -> None:
    server = launch()
    await db.execute("ALTER TABLE calls RENAME TO calls_away")
    found = await scraped(http, server)
    assert found["callmeter_db_pool_limit_connections"] == 10


async def test_calls_to_vendors_are_measured_by_what_came_of_them() -> None:
    class Vendor:
        name = "not a call"

        async def charge(self, cents: int) -> int:
            if cents < 0:
                raise ValueError
            return cents

    exporter = InMemorySpanExporter()
    metrics = Metrics()
    vendor = Traced("vendor", Vendor(), Tracing.to(SimpleSpanProcessor(exporter), instance_id="here"), metrics)
    assert await vendor.charge(5) == 5
    with pytest.raises(ValueError):  # noqa: PT011
        await vendor.charge(-1)
    assert vendor.name == "not a call"
    found = samples_of(metrics.text()[0].decode())
    name = "callmeter_vendor_request_duration_seconds_count{operation=charge,outcome=%s,vendor=vendor}"
    assert found[name % "ok"] == found[name % "ValueError"] == 1
    assert [span.name for span in exporter.get_finished_spans()] == ["vendor charge", "vendor charge"]
    assert not exporter.get_finished_spans()[1].status.is_ok


def test_what_the_fan_out_counts_is_read_as_it_grows() -> None:
    stats = SimpleNamespace(
        messages_out=5, bytes_out=50, messages_in=1, bytes_in=10, redis_published=2, redis_received=2, redis_lost=0,
        gaps=0, upgrades=1, drops=Counter(slow=1), sockets=3, polling_sockets=1, connections=4, send_queue_bytes=0,
        redis_lag_s=0.002,
    )  # fmt: skip
    metrics = Metrics()
    metrics.fanout(stats)
    stats.messages_out, stats.drops, stats.redis_lag_s = 7, Counter(slow=1, message_rate=2), None
    metrics.fanout(stats)
    metrics.fanout(stats)
    found = samples_of(metrics.text()[0].decode())
    assert found["callmeter_fanout_packets_total{direction=out}"] == 7
    assert found["callmeter_fanout_drops_total{limit=slow}"] == 1
    assert found["callmeter_fanout_drops_total{limit=message_rate}"] == 2
    assert found["callmeter_fanout_sockets{transport=websocket}"] == 2
    assert found["callmeter_fanout_delivery_lag_seconds"] == 0.002, "the last that was known"
