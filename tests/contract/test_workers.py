"""Section 1, `--workers N`: several processes behind one port, which nobody outside can tell from one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from tests.contract.service import Browser, Serve, Service, command_env, raw_socket, someone, sql, verified
from tests.servers import JWT_SECRET, ROOT, Launch, Opens, Server, eventually, free_port, token_of

WORKERS = 4


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve(WORKERS=WORKERS, BILLING_PERIOD_SECONDS=1, CALL_GRACE_SECONDS=120) as service:
        yield service


@dataclass(frozen=True)
class Worker:
    number: int
    pid: int
    tag: str
    """What the ids of its sockets begin with."""


def workers(server: Server) -> list[Worker]:
    """Those that serve now, from what they have logged."""
    found: dict[int, Worker] = {}
    for line in server.log.read_text().splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("event") == "a worker serves":
            found[said["worker"]] = Worker(said["worker"], said["pid"], said["socket_ids"])
    return [worker for worker in found.values() if is_running(worker.pid)]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def tag_of(sid: str) -> str:
    return sid.partition(".")[0]


@asynccontextmanager
async def connections(at_most: int) -> AsyncIterator[aiohttp.ClientSession]:
    """Requests over new connections (0), or all over one that is kept (1), as a proxy's are."""
    connector = aiohttp.TCPConnector(limit=1) if at_most else aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


class Polling:
    """An Engine.IO session by HTTP long-polling, each request over whatever connection the caller brings."""

    def __init__(self, service: Service) -> None:
        self._base = f"{service.url}/socket.io/?EIO=4&transport=polling"
        self.sid = ""

    async def open(self, http: aiohttp.ClientSession) -> Polling:
        async with http.get(self._base) as answer:
            self.sid = json.loads((await answer.text())[1:])["sid"]
        return self

    async def post(self, http: aiohttp.ClientSession, body: str) -> int:
        async with http.post(f"{self._base}&sid={self.sid}", data=io.BytesIO(body.encode())) as answer:
            return answer.status

    async def poll_until(self, http: aiohttp.ClientSession, start: str) -> str:
        """The packet that starts so."""
        while True:
            async with http.get(f"{self._base}&sid={self.sid}") as answer:
                assert answer.status == 200, await answer.text()
                packets = (await answer.text()).split("\x1e")
            if found := [packet for packet in packets if packet.startswith(start)]:
                return found[0]


async def polled(service: Service, count: int) -> list[Polling]:
    async with connections(0) as http:
        return [await Polling(service).open(http) for _ in range(count)]


@pytest.mark.parametrize("kept", [0, 1], ids=["over new connections", "over one kept connection"])
async def test_a_session_that_polls_is_served_over_any_connection(service: Service, kept: int) -> None:
    sessions = await polled(service, 12)
    assert len({tag_of(session.sid) for session in sessions}) > 1, "the kernel spreads connections"
    long_text = "x" * 400_000
    async with connections(kept) as http:
        for session in sessions:
            assert await session.post(http, "40" + json.dumps({"token": token_of(someone())})) == 200
            await session.poll_until(http, "40{")
        for session in sessions:
            event = json.dumps(["balance:get", {"unknown": long_text}])
            assert await session.post(http, f"427{event}\x1e428" + '["balance:get",{}]') == 200
        for session in sessions:
            assert '"ok":true' in await session.poll_until(http, "438")
        for session in sessions:
            assert await session.post(http, "1") == 200


async def test_a_body_too_long_is_refused_by_the_process_that_has_the_session(service: Service) -> None:
    sessions = await polled(service, 6)
    for session in sessions:
        async with connections(1) as http, http.get(f"{service.url}/health") as warm_up:
            assert warm_up.status == 200
            assert await session.post(http, "4" + "x" * 1_500_000) == 413
        async with connections(0) as http:
            assert await session.post(http, "3") == 400, "its session is over"


async def test_a_session_whose_process_never_was_is_unknown(service: Service) -> None:
    async with connections(0) as http:
        for sid in ("AAAAAAAA." + "x" * 20, "../../etc.", "AAAAAAAA", "", "AAAAAAAA.%00"):
            async with http.get(f"{service.url}/socket.io/?EIO=4&transport=polling&sid={sid}") as answer:
                assert (answer.status, (await answer.json())["code"]) == (400, 1)


@pytest.mark.parametrize("kept", [0, 1], ids=["on a new connection", "on a connection that carried requests"])
async def test_a_websocket_takes_its_session_over_wherever_it_arrives(service: Service, kept: int) -> None:
    sessions = await polled(service, 8)
    for session in sessions:
        async with connections(kept) as http:
            assert await session.post(http, "40" + json.dumps({"token": token_of(someone())})) == 200
            url = f"{service.url}/socket.io/?EIO=4&transport=websocket&sid={session.sid}"
            async with http.ws_connect(url) as socket:
                await socket.send_str("2probe")
                assert await socket.receive_str(timeout=30) == "3probe"
                await socket.send_str("5")
                assert (await socket.receive_str(timeout=30)).startswith("40{")
                await socket.send_str('427["balance:get",{}]')
                while not (text := await socket.receive_str(timeout=30)).startswith("437"):
                    pass
                assert '"ok":true' in text


@pytest.mark.parametrize("transports", ["polling", "polling,websocket"])
async def test_a_call_by_the_official_javascript_client_over_four_processes(
    service: Service, browser: Browser, open_javascript_tab: Opens, transports: str
) -> None:
    ann, bob = someone("ann"), someone("bob")
    await browser.grant(service, ann, 1000)
    caller, callee, callee_too = [
        await open_javascript_tab(service.server, user, transports=transports) for user in (ann, bob, bob)
    ]
    started = await caller.ask("call:start", {"calleeId": bob, "requestId": "r"})
    await eventually(lambda: callee.told("call:incoming") and callee_too.told("call:incoming"))
    accepted = await callee.ask("call:accept", {"callId": started["call"]["id"]})
    assert accepted["ok"], accepted
    await eventually(lambda: len(caller.told("balance:update")) >= 4)
    for _ in range(10):
        answers = await asyncio.gather(*(tab.ask("balance:get") for tab in (caller, callee, callee_too)))
        assert all(answer["ok"] for answer in answers)
    assert (await callee.ask("call:end", {"callId": started["call"]["id"]}))["call"]["endReason"] == "hangup"
    for tab in (caller, callee_too):
        await eventually(lambda tab=tab: tab.told("call:ended"))
    # Two processes may publish what they committed in another order.
    versions = sorted(update["version"] for update in caller.told("balance:update"))
    assert versions == list(range(1, len(versions) + 1)), "none missed, none twice"


async def test_a_killed_process_is_started_again_its_tabs_come_back_elsewhere_and_its_call_goes_on(
    service: Service, browser: Browser, open_javascript_tab: Opens
) -> None:
    ann, bob = someone("ann"), someone("bob")
    await browser.grant(service, ann, 1000)
    caller = await open_javascript_tab(service.server, ann, transports="polling", reconnect=True)
    callee = await open_javascript_tab(service.server, bob, transports="polling,websocket", reconnect=True)
    started = await caller.ask("call:start", {"calleeId": bob, "requestId": "r"})
    call_id = started["call"]["id"]
    await eventually(lambda: callee.told("call:incoming"))
    assert (await callee.ask("call:accept", {"callId": call_id}))["ok"]
    async with crowd(service, 64) as others:
        victim = next(worker for worker in workers(service.server) if worker.tag == tag_of(caller.sid))
        hit = [client for client in others if tag_of(client.get_sid()) == victim.tag]
        old_sid = caller.sid
        snapshots = len(caller.told("call:accepted"))
        os.kill(victim.pid, signal.SIGKILL)

        def back(client: Any) -> bool:
            sid = client.get_sid()
            return sid is not None and tag_of(sid) != victim.tag

        await eventually(lambda: caller.sid != old_sid and len(caller.told("call:accepted")) > snapshots)
        await eventually(lambda: all(map(back, hit)))
        assert len({tag_of(client.get_sid()) for client in hit}) > 1, "spread over the others"
    rejoined = await caller.ask("call:join", {"callId": call_id})
    assert rejoined["call"]["status"] == "active"
    spent = rejoined["call"]["tokensSpent"]
    await eventually(lambda: caller.told("balance:update")[-1]["balance"] <= 1000 - spent - 20)
    ended = (await caller.ask("call:end", {"callId": call_id}))["call"]
    assert ended["endReason"] == "hangup"
    async with sql(service) as db:
        keys = await db.fetch("SELECT idempotency_key FROM journals WHERE idempotency_key LIKE $1", f"call:{call_id}:%")
    periods = sorted(int(row[0].rpartition(":")[2]) for row in keys)
    assert periods == list(range(1, ended["periodsBilled"] + 1)), "four meters, each period once"
    verified(service)
    await eventually(lambda: len(workers(service.server)) == WORKERS)
    assert victim.number in {worker.number for worker in workers(service.server)}


@asynccontextmanager
async def crowd(service: Service, size: int) -> AsyncIterator[list[socketio.AsyncClient]]:
    """Clients that come back by themselves."""
    clients = [socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.5) for _ in range(size)]
    try:
        for client in clients:
            await client.connect(service.url, auth={"token": token_of(someone())}, transports=["websocket"])
        yield clients
    finally:
        for client in clients:
            await client.disconnect()


async def test_metrics_are_those_of_all_processes_whichever_answers(service: Service, browser: Browser) -> None:
    async def value(name: str) -> float:
        async with connections(0) as http, http.get(f"{service.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}({{|\s)", line))

    before = await value("callmeter_socket_connects_total")
    async with crowd(service, 8) as clients:
        assert len({tag_of(client.get_sid()) for client in clients}) > 1
        for _ in range(6):
            assert await value("callmeter_processes") == len(workers(service.server))
            assert await value("callmeter_socket_connects_total") == before + 8
            assert await value("process_resident_memory_bytes") > WORKERS * 30_000_000


async def test_what_a_limit_ended_is_counted_by_which_in_the_metrics(service: Service) -> None:
    async def dropped() -> bool:
        async with connections(0) as http, http.get(f"{service.url}/metrics") as answer:
            return 'callmeter_fanout_drops_total{limit="message_rate"}' in await answer.text()

    assert not await dropped()
    async with raw_socket(service, someone()) as noisy:
        with contextlib.suppress(ConnectionError):
            for _ in range(1_000):
                await noisy.say('421["balance:get",{}]')
    await eventually(dropped)


def test_a_start_that_cannot_be_says_why_in_one_line_for_all_of_them(
    service: Service, empty_database_url: str, tmp_path: Path
) -> None:
    good = command_env(service.database_url) | {
        "REDIS_URL": service.redis_url, "PORT": str(free_port()), "JWT_SECRET": JWT_SECRET, "WORKERS": "3",
        "STRIPE_SECRET_KEY": "sk_test_nobody", "STRIPE_API_BASE": "http://127.0.0.1:9",
    }  # fmt: skip
    for changed, named in (
        ({"PORT": str(service.server.port)}, "PORT"),
        ({"DATABASE_URL": empty_database_url}, "DATABASE_URL: the database is not migrated"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "realtime"], env=good | changed, cwd=tmp_path, text=True, capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith("callmeter: ")
        assert named in line


async def test_workers_whose_parent_was_killed_leave_too(launch: Launch) -> None:
    server = await asyncio.to_thread(launch, WORKERS=2)
    left = workers(server)
    assert len(left) == 2
    told = Path(f"/proc/{left[0].pid}/cmdline").read_text().split("\0")
    shared = Path(told[told.index("--worker-directory") + 1])
    assert shared.is_dir()
    server.kill()
    await eventually(lambda: not any(is_running(worker.pid) for worker in left))
    assert not shared.exists()
    assert server.log.read_text().count('"event": "stopped"') == 2, "they drained"


def test_sigterm_stops_every_process_and_the_embedded_servers(tmp_path: Path) -> None:
    """As a fresh machine runs it: no PostgreSQL, no Redis, no settings."""
    log = tmp_path / "log"
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": str(port), "LOG_FORMAT": "json"}
    server = Server(["-m", "realtime", "--workers", "2"], environment, log, cwd=tmp_path)
    try:
        server.wait_for('"event": "serving"', 90)
        running = [worker.pid for worker in workers(server)]
        assert len(running) == 2
        for name in ("postgres/postmaster.pid", "redis.sock"):
            assert (tmp_path / ".data" / name).exists()
        running.append(int((tmp_path / ".data" / "postgres" / "postmaster.pid").read_text().split()[0]))
        assert server.stop(40) == 0
    finally:
        if server.process.poll() is None:
            server.kill()
    assert not any(map(is_running, running))
    assert not (tmp_path / ".data" / "postgres" / "postmaster.pid").exists()
    assert log.read_text().count('"event": "stopped"') == 3
