"""Sections 3 and 5: bytes that are no Socket.IO. They harm at most the connection they came on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.contract.service import Browser, Pairs, RawSocket, Serve, Service, raw_socket, someone
from tests.servers import PATIENCE_S, Opens, eventually, token_of


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve(RATE_LIMIT_TRUST_LEVELS='{"basic":1000,"verified":1000,"trusted":1000,"vip":1000}') as service:
        yield service


NONSENSE_AFTER_CONNECTING = {
    "an empty event": "42[]",
    "an event that is a number": "42[1]",
    "an event that is null": "42[null,{}]",
    "an event that is an object": "42[{},{}]",
    "an event of no list": '42{"a":1}',
    "no JSON": "42[",
    "JSON and more": '42["balance:get",{}]]',
    "nested deeply": "42" + "[" * 20_000,
    "a number of 5,000 digits": '42["balance:get",' + "9" * 5000 + "]",
    "an acknowledgement of nothing": "4399[1]",
    "an acknowledgement without a number": "43[1]",
    "an acknowledgement number of 100 digits": "42" + "9" * 100 + '["balance:get",{}]',
    "another namespace": "40/admin,{}",
    "an event in another namespace": '42/admin,["balance:get",{}]',
    "a second connect": '40{"token":"x"}',
    "a disconnect of another namespace": "41/admin,",
    "a connect error": '44{"message":"x"}',
    "binary announced, not sent": '451-["call:end",{"callId":{"_placeholder":true,"num":0}}]',
    "a million attachments announced": '451000000-["call:end",{}]',
    "an attachment out of range": '451-["call:end",{"_placeholder":true,"num":7}]',
    "binary out of nowhere": b"\x00\x01\x02",
    "an unknown packet type": "49",
    "a packet type that is no digit": "4x",
    "an empty packet": "4",
    "an unknown Engine.IO type": "9",
    "Engine.IO open from a client": "0{}",
    "Engine.IO upgrade on a websocket": "5",
    "an empty text": "",
    "an event named connect": '42["connect",{},{"token":"x"}]',
    "an event named disconnect": '42["disconnect","client namespace disconnect"]',
    "an event named connect_error": '42["connect_error",{}]',
}


@pytest.mark.parametrize("kind", NONSENSE_AFTER_CONNECTING)
async def test_a_malformed_packet_harms_at_most_its_own_socket(service: Service, open_tab: Opens, kind: str) -> None:
    bystander = await open_tab(service.server, someone())
    async with raw_socket(service, someone()) as raw:
        await raw.say(NONSENSE_AFTER_CONNECTING[kind])
        await raw.alive(timeout_s=0.5)
    assert (await bystander.ask("balance:get"))["ok"]


@pytest.mark.parametrize("kind", NONSENSE_AFTER_CONNECTING)
async def test_a_malformed_packet_before_saying_who_one_is_gets_nowhere(
    service: Service, open_tab: Opens, kind: str
) -> None:
    bystander = await open_tab(service.server, someone())
    async with raw_socket(service, None) as raw:
        await raw.say(NONSENSE_AFTER_CONNECTING[kind])
        assert not await raw_refuses(raw)
    assert (await bystander.ask("balance:get"))["ok"]


async def raw_refuses(raw: RawSocket) -> bool:
    """Whether an event is answered although nobody said who asks; a later frame is surely seen after it."""
    await raw.say('4277["balance:get",{}]')
    await raw.say('40{"token":"still not a token"}')
    try:
        text = await raw.heard("4")
    except ConnectionError:
        return False
    return text.startswith("43") and '"ok":true' in text.replace(" ", "")


async def test_an_event_named_connect_does_not_count_a_tab_twice(
    service: Service, open_tab: Opens, pair: Pairs
) -> None:
    """A user is there as long as a tab is connected, whatever that tab said of itself."""
    caller = (await pair(service)).caller
    user = someone("ghost")
    async with raw_socket(service, user) as raw:
        for _ in range(3):
            await raw.say(f'42["connect",{{}},{{"token":"{token_of(user)}"}}]')
        await raw.alive()

    async def gone() -> bool:
        answer = await caller.ask("call:start", {"calleeId": user, "requestId": someone("r")})
        if answer["ok"]:
            await caller.ask("call:cancel", {"callId": answer["call"]["id"]})
        return not answer["ok"] and answer["error"]["code"] == "callee_unavailable"

    await eventually(gone)


async def test_a_tab_that_says_it_disconnected_and_stays_is_still_rung(service: Service, pair: Pairs) -> None:
    caller = (await pair(service)).caller
    user = someone("sly")
    async with raw_socket(service, user) as raw:
        await raw.say('42["disconnect","client namespace disconnect"]')
        if not await raw.alive():
            return  # the server took it at its word
        answer = await caller.ask("call:start", {"calleeId": user, "requestId": "r"})
        assert answer["ok"], answer
        await raw.heard('42["call:incoming"')


GARBAGE = {
    "nothing": b"",
    "zeros": b"\0" * 10_000,
    "random bytes": bytes(range(256)) * 40,
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x11" * 160,
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /health\r\n\r\n",
    "a version of the future": b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a URL of 100,000 characters": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header of 100,000 characters": b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
    "10,000 headers": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "a header without a name": b"GET /health HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "a header with a line break": b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r c\r\n\r\n",
    "two lengths": b"POST /dev/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": b"POST /dev/login HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}",
    "a length and chunks": (
        b"POST /dev/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "chunks that are none": b"POST /dev/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a body that stops": b"POST /dev/login HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n{",
    "deflate that is none": (
        b"POST /dev/login HTTP/1.1\r\nHost: x\r\nContent-Encoding: deflate\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "gzip that is none": (
        b"POST /dev/login HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "an upgrade to nothing": b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\n\r\n",
    "a WebSocket without a key": (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ),
    "a WebSocket of another version": (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
}
WEBSOCKET = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GARBAGE |= {
    "a frame without a mask": WEBSOCKET + b"\x81\x05hello",
    "a frame of a reserved kind": WEBSOCKET + b"\x83\x80\0\0\0\0",
    "a frame with reserved bits": WEBSOCKET + b"\xf1\x80\0\0\0\0",
    "a frame that says it has 2^62 bytes": WEBSOCKET + b"\x81\xff" + (2**62).to_bytes(8, "big") + b"\0\0\0\0abc",
    "a continuation of nothing": WEBSOCKET + b"\x80\x80\0\0\0\0",
    "text that is no UTF-8": WEBSOCKET + b"\x81\x82\0\0\0\0\xff\xfe",
    "a ping of 200 bytes": WEBSOCKET + b"\x89\xfe\0\xc8\0\0\0\0" + b"p" * 200,
    "a close with half a code": WEBSOCKET + b"\x88\x81\0\0\0\0\x03",
    "half a frame": WEBSOCKET + b"\x81",
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_on_the_port_harms_no_one_else(service: Service, open_tab: Opens, kind: str) -> None:
    bystander = await open_tab(service.server, someone())
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    with contextlib.suppress(ConnectionError):
        writer.write(GARBAGE[kind])
        with contextlib.suppress(OSError):  # reset already, it is not even connected
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        assert b"Traceback" not in answer
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:500]
    writer.close()
    assert (await bystander.ask("balance:get"))["ok"]


@pytest.mark.parametrize("kind", ["a body that stops", "gzip that is none"])
async def test_a_body_that_cannot_be_read_is_its_senders_fault_and_writes_no_traceback(
    service: Service, kind: str
) -> None:
    before = len(service.server.log.read_bytes())

    def said() -> str:
        return service.server.log.read_bytes()[before:].decode()

    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(GARBAGE[kind])
    writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        await reader.read()  # until the server has closed, after all it has to say
    await eventually(lambda: "/dev/login" in said())
    assert "invalid_payload" in said()
    assert "Traceback" not in said()
    writer.close()


BAD_POLLS = {
    "no version": ("GET", "transport=polling", b""),
    "version 3": ("GET", "EIO=3&transport=polling", b""),
    "version x": ("GET", "EIO=x&transport=polling", b""),
    "an unknown transport": ("GET", "EIO=4&transport=pigeon", b""),
    "an unknown sid": ("GET", "EIO=4&transport=polling&sid=unknown", b""),
    "a sid of 5,000 characters": ("GET", "EIO=4&transport=polling&sid=" + "x" * 5000, b""),
    "a post without a sid": ("POST", "EIO=4&transport=polling", b'40{"token":"x"}'),
    "a post to an unknown sid": ("POST", "EIO=4&transport=polling&sid=unknown", b"40"),
    "another method": ("DELETE", "EIO=4&transport=polling", b""),
    "JSONP": ("GET", "EIO=4&transport=polling&j=%3Cscript%3E", b""),
}


@pytest.mark.parametrize("kind", BAD_POLLS)
async def test_a_poll_of_another_shape_is_a_client_error(service: Service, browser: Browser, kind: str) -> None:
    method, query, body = BAD_POLLS[kind]
    answer = await browser.request(service, method, f"/socket.io/?{query}", data=body or None)
    assert 400 <= answer.status < 500, answer.text
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"\x1e\x1e\x1e", b"\xff\xfe", b"4", b"b", b"b!!!", b"9", b"x" * 10_000, b"2\x1e" * 200, b"4" + b"[" * 20_000],
    ids=range(10),
)
async def test_a_poll_with_a_body_of_another_shape_harms_no_one_else(
    service: Service, browser: Browser, open_tab: Opens, body: bytes
) -> None:
    bystander = await open_tab(service.server, someone())
    opened = await browser.get(service, "/socket.io/?EIO=4&transport=polling")
    sid = json.loads(opened.text[1:])["sid"]
    answer = await browser.post(service, f"/socket.io/?EIO=4&transport=polling&sid={sid}", data=body)
    assert answer.status < 500, answer.text
    assert (await bystander.ask("balance:get"))["ok"]


async def test_connections_that_say_nothing_do_not_keep_others_out(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", service.server.port) for _ in range(200)]
    for _, writer in silent[::2]:
        writer.write(b"GET /socket.io/?EIO=4&trans")
    assert (await browser.get(service, "/health")).status == 200
    assert (await (await open_tab(service.server, someone())).ask("balance:get"))["ok"]
    for _, writer in silent:
        writer.close()
