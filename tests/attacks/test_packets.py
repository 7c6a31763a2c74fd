"""Packets and frames of every kind on the real server: they harm at most the connection they came on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.fanout.limits import Limits
from tests.attacks.packets import FRAME, PACKET
from tests.contract.service import RawSocket, Serve, Service, raw_socket, someone
from tests.servers import PATIENCE_S, Tab, eventually, token_of

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
BOUNDED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve() as service:
        yield service


@pytest.fixture(scope="module")
def unharmed(service: Service) -> Iterator[Any]:
    """Run an attack, and see that somebody else's tab is served and that nothing was a fault of the server's own."""
    with asyncio.Runner() as runner:
        bystander = Tab(service.server, "bystander", token_of("bystander"))
        runner.run(bystander.connect())

        def run(attack: Any) -> None:
            runner.run(asyncio.wait_for(attack, 120))
            assert runner.run(bystander.ask("balance:get", timeout_s=PATIENCE_S))["ok"]

        yield run
        runner.run(bystander.close())
    errors = [line for line in service.server.log.read_text().splitlines() if '"level": "error"' in line]
    assert errors == []


def test_whatever_is_said_on_a_socket_harms_no_other(service: Service, unharmed: Any) -> None:
    @BOUNDED
    @given(said=st.lists(PACKET, min_size=1, max_size=12), known=st.booleans())
    def attack(said: list[str | bytes], known: bool) -> None:
        async def say() -> None:
            async with raw_socket(service, someone("fuzzer") if known else None) as raw:
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    for packet in said:
                        await raw.say(packet)

        unharmed(say())

    attack()


async def opened(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket connection, after its handshake, byte by byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    writer.write(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def test_whatever_bytes_come_as_frames_harm_no_other(service: Service, unharmed: Any) -> None:
    @BOUNDED
    @given(frames=st.lists(FRAME | st.binary(max_size=60), min_size=1, max_size=10), cut=st.integers(1, 200))
    def attack(frames: list[bytes], cut: int) -> None:
        async def send() -> None:
            _, writer = await opened(service)
            data = b"".join(frames)
            with contextlib.suppress(ConnectionError):
                for at in range(0, len(data), cut):  # in pieces, as a slow network brings them
                    writer.write(data[at : at + cut])
                    await writer.drain()
            writer.close()

        unharmed(send())

    attack()


def test_whatever_is_posted_to_a_polling_session_harms_no_other(service: Service, unharmed: Any) -> None:
    @BOUNDED
    @given(said=st.lists(PACKET, max_size=8), junk=st.binary(max_size=50))
    def attack(said: list[str | bytes], junk: bytes) -> None:
        parts = [part if isinstance(part, bytes) else part.encode(errors="replace") for part in said]

        async def post() -> None:
            base = f"{service.url}/socket.io/?EIO=4&transport=polling"
            async with aiohttp.ClientSession() as http:
                async with http.get(base) as answer:
                    sid = json.loads((await answer.text())[1:])["sid"]
                async with http.post(f"{base}&sid={sid}", data=b"\x1e".join([*parts, junk])) as answer:
                    assert answer.status < 500, await answer.text()

        unharmed(post())

    attack()


@pytest.mark.parametrize(
    "query",
    ["&".join("abcdefgh"[n % 8] * n + "=1" for n in range(1, 120)), "EIO=4&transport=websocket&" + "x&" * 5_000,
     "EIO=4&transport=%00", "EIO=4&transport=websocket&sid=" + "../" * 50, "EIO=4&EIO=3&transport=websocket", "%"],
    ids=range(6),
)  # fmt: skip
def test_a_handshake_with_an_odd_query_is_refused(service: Service, unharmed: Any, query: str) -> None:
    async def ask() -> None:
        for extra in ("", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n"):  # fmt: skip
            reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
            writer.write(f"GET /socket.io/?{query} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
            answer = (await reader.readline()).decode()
            assert answer == "" or answer.split()[1] in {"101", "400", "414", "431"}, answer
            writer.close()

    unharmed(ask())


def memory_bytes(service: Service) -> int:
    pages = int(Path(f"/proc/{service.server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_message_in_endless_empty_pieces_is_cut_off(service: Service, unharmed: Any) -> None:
    """Pieces without a byte pass every bound on bytes."""
    before = memory_bytes(service)

    async def send() -> None:
        reader, writer = await opened(service)
        await reader.readuntil(b"}")
        writer.write(b"\x01\x80\0\0\0\0")
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000):
                writer.write(b"\x00\x80\0\0\0\0" * 1_000)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(reader.read(65536), PATIENCE_S):
                pass
        writer.close()

    unharmed(send())
    assert memory_bytes(service) - before < 10_000_000


def test_sockets_that_never_say_who_they_are_are_let_go(service: Service, unharmed: Any) -> None:
    async def wait() -> None:
        silent = [await opened(service) for _ in range(200)]
        ends = await asyncio.gather(*(asyncio.wait_for(reader.read(), 90) for reader, _ in silent))
        assert len(ends) == 200
        for _, writer in silent:
            writer.close()

    unharmed(wait())


def test_a_user_with_more_tabs_than_anybody_has_keeps_nobody_else_out(service: Service, unharmed: Any) -> None:
    most = Limits().tabs_per_user

    async def open_many() -> None:
        greedy = token_of(someone("greedy"))
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
            contextlib.AsyncExitStack() as s,
        ):

            async def open_one() -> bool:
                url = f"{service.url}/socket.io/?EIO=4&transport=websocket"
                raw = RawSocket(await s.enter_async_context(http.ws_connect(url)))
                await raw.heard("0{")
                await raw.say("40" + json.dumps({"token": greedy}))
                return (await raw.heard("4")).startswith("40")

            let_in = 0
            for _ in range(most // 50 + 1):
                let_in += sum(await asyncio.gather(*(open_one() for _ in range(50))))
            assert let_in == most
            figures = await (await http.get(f"{service.url}/metrics")).text()
            assert 'callmeter_socket_connects_total{outcome="rate_limited"} 50.0' in figures, "who is refused is no tab"
            async with raw_socket(service, someone("modest")) as other:
                assert await other.alive()

    unharmed(open_many())


def test_thousands_of_rings_by_one_user_are_slowed_to_what_a_minute_allows(service: Service, unharmed: Any) -> None:
    async def ring() -> None:
        caller, callee = (
            Tab(service.server, "ringer", token_of("ringer")),
            Tab(service.server, "rung", token_of("rung")),
        )
        await caller.connect()
        await callee.connect()
        await eventually(lambda: callee.told("balance:update"))
        codes: dict[str, int] = {}
        for batch in range(4):
            answers = await asyncio.gather(
                *(caller.ask("call:start", {"calleeId": "rung", "requestId": f"{batch}-{n}"}) for n in range(40)),
                return_exceptions=True,
            )
            for answer in answers:
                code = answer["error"]["code"] if isinstance(answer, dict) else "dropped"
                codes[code] = codes.get(code, 0) + 1
            if not caller.client.connected:
                break
        assert codes.pop("insufficient_funds") == 5, codes
        assert set(codes) <= {"rate_limited", "dropped"}
        await caller.close()
        await callee.close()

    unharmed(ring())
