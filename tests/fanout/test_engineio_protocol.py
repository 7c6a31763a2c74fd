"""Engine.IO v4: counterparts of the cases of its public test suite (socketio/engine.io-protocol), and some more.

The server echoes messages, so that what is sent and what is received are one case.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import engineio.payload
import pytest

from realtime.fanout import FanoutServer
from realtime.fanout.frames import BINARY, TEXT, frame
from realtime.fanout.sessions import Session
from tests.fanout.conftest import Raw, Running, ServeFanout, Socket, soon

PING_INTERVAL_S, PING_TIMEOUT_S = 0.3, 0.2


def echoing(sio: FanoutServer) -> None:
    def echo(session: Session, data: str | bytes) -> None:
        session.send(frame(BINARY, data) if isinstance(data, bytes) else frame(TEXT, b"4" + data.encode()))

    sio.eio.on_message = echo


@pytest.fixture
async def server(serve_fanout: ServeFanout) -> Running:
    """Pings are 25 s apart: none comes in between."""
    return await serve_fanout(echoing)


@pytest.fixture
async def pinging(serve_fanout: ServeFanout) -> Running:
    return await serve_fanout(echoing, ping_interval_s=PING_INTERVAL_S, ping_timeout_s=PING_TIMEOUT_S)


@pytest.fixture
async def patient(serve_fanout: ServeFanout) -> Running:
    """Pings soon, and leaves a slow machine time to answer."""
    return await serve_fanout(echoing, ping_interval_s=0.1, ping_timeout_s=20.0)


# Handshake


async def test_polling_opens_a_session(pinging: Running, raw: Raw) -> None:
    status, text = await raw.get(pinging.polling_url())
    assert status == 200
    assert text.startswith("0")
    opened = json.loads(text[1:])
    assert isinstance(opened.pop("sid"), str)
    assert opened == {
        "upgrades": ["websocket"], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000,
    }  # fmt: skip


async def test_a_websocket_opens_a_session(pinging: Running, raw: Raw) -> None:
    socket = await raw.connect(pinging.websocket_url())
    opening = str(await socket.hear())
    assert opening.startswith("0")
    opened = json.loads(opening[1:])
    assert isinstance(opened.pop("sid"), str)
    assert opened == {"upgrades": [], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("transport=polling", 5), ("EIO=abc&transport=polling", 5), ("EIO=3&transport=polling", 5),
        ("EIO=4", 0), ("EIO=4&transport=abc", 0), ("EIO=4&transport=constructor", 0),
        ("EIO=4&transport=polling&sid=nobody", 1), ("EIO=4&transport=polling&j=0", 3),
    ],
)  # fmt: skip
async def test_polling_with_a_wrong_query_is_refused_with_the_protocols_code(
    server: Running, raw: Raw, query: str, code: int
) -> None:
    status, text = await raw.get(f"{server.url}/socket.io/?{query}")
    assert status == 400
    assert json.loads(text)["code"] == code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
async def test_only_get_opens_a_session(server: Running, raw: Raw, method: str) -> None:
    async with raw.http.request(method, server.polling_url()) as answer:
        assert answer.status == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_a_session_knows_get_and_post_only(server: Running, raw: Raw, method: str) -> None:
    sid = await raw.open_polling(server)
    async with raw.http.request(method, server.polling_url(sid)) as answer:
        assert answer.status == 400
    assert (await raw.post(server.polling_url(sid), "4still there"))[0] == 200


@pytest.mark.parametrize(
    "query",
    ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc",
     "EIO=4&transport=websocket&sid=nobody", "EIO=4&transport=polling"],
)  # fmt: skip
async def test_a_websocket_with_a_wrong_query_is_not_opened(server: Running, raw: Raw, query: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await raw.connect(f"{server.url}/socket.io/?{query}")
    assert refused.value.status == 400


# Messages


@pytest.mark.parametrize(
    "payload", ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4é€🎈", "4"],
    ids=["one", "several", "with binary", "not ASCII", "empty"],
)  # fmt: skip
async def test_polling_carries_packets_there_and_back(server: Running, raw: Raw, payload: str) -> None:
    sid = await raw.open_polling(server)
    assert await raw.post(server.polling_url(sid), payload.encode()) == (200, "ok")
    assert await raw.get(server.polling_url(sid)) == (200, payload)


async def test_a_poll_takes_no_more_packets_than_official_python_clients_do_and_the_next_ones_the_rest(
    server: Running, raw: Raw
) -> None:
    sid = await raw.open_polling(server)
    sent = [f"4{number}" for number in range(40)]
    for one in sent:
        server.sio.eio.sockets[sid].send(frame(TEXT, one.encode()))
    heard: list[str] = []
    while len(heard) < len(sent):
        _, text = await raw.get(server.polling_url(sid))
        engineio.payload.Payload(encoded_payload=text)  # raises at one too many
        heard += text.split("\x1e")
    assert heard == sent


async def test_a_poll_waits_for_the_first_packet(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    poll = asyncio.create_task(raw.get(server.polling_url(sid)))
    await soon(lambda: server.sio.eio.sockets[sid].poller is not None)
    await raw.post(server.polling_url(sid), "4hello")
    assert await poll == (200, "4hello")


@pytest.mark.parametrize("body", ["abc", "4ok\x1eabc", "bnot base 64!", "", b"\xff\xfe"])
async def test_a_body_of_no_packets_ends_the_session(server: Running, raw: Raw, body: str | bytes) -> None:
    sid = await raw.open_polling(server)
    assert (await raw.post(server.polling_url(sid), body))[0] == 400
    await soon(lambda: sid not in server.sio.eio.sockets)
    assert (await raw.get(server.polling_url(sid)))[0] == 400


async def test_a_second_poll_at_the_same_time_ends_the_session(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    first = asyncio.create_task(raw.get(server.polling_url(sid)))
    await soon(lambda: server.sio.eio.sockets[sid].poller is not None)
    assert (await raw.get(server.polling_url(sid)))[0] == 400
    assert await first == (200, "1")
    assert (await raw.get(server.polling_url(sid)))[0] == 400


async def test_a_poll_that_was_hung_up_on_ends_the_session_long_before_its_next_ping(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    server = await serve_fanout(echoing, ping_interval_s=600)
    sid = await raw.open_polling(server)
    poll = asyncio.create_task(raw.get(server.polling_url(sid)))
    await soon(lambda: server.sio.eio.sockets[sid].poller is not None)
    poll.cancel()
    await asyncio.gather(poll, return_exceptions=True)
    await soon(lambda: sid not in server.sio.eio.sockets)
    assert (await raw.get(server.polling_url(sid)))[0] == 400


async def test_a_session_keeps_no_head_of_a_request_that_is_longer_than_a_websockets_may_be(
    server: Running, raw: Raw
) -> None:
    stuffed = {f"X-{number}": "x" * 8_000 for number in range(5)}
    assert (await raw.get(server.polling_url(), headers=stuffed))[0] == 431
    assert not server.sio.eio.sockets


async def test_a_websocket_carries_text_and_binary(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    for packet in ("4hello", b"\x01\x02\x03\x04", "4é€🎈", "4" + "x" * 70_000, b"\x00" * 70_000):
        await socket.say(packet)
        assert await socket.hear() == packet


@pytest.mark.parametrize("packet", ["abc", "", "9", "0{}", "5"])
async def test_a_websocket_that_says_no_packet_is_closed(server: Running, raw: Raw, packet: str) -> None:
    socket = await raw.open(server)
    await socket.say(packet)
    await socket.closed()
    await soon(lambda: not server.sio.eio.sockets)


# Heartbeat


async def test_polling_is_pinged_and_lives_by_its_pongs(patient: Running, raw: Raw) -> None:
    sid = await raw.open_polling(patient)
    for _ in range(3):
        assert await raw.get(patient.polling_url(sid)) == (200, "2")
        assert (await raw.post(patient.polling_url(sid), "3"))[0] == 200


async def test_a_websocket_is_pinged_and_lives_by_its_pongs(patient: Running, raw: Raw) -> None:
    socket = await raw.open(patient)
    for _ in range(3):
        assert await socket.hear() == "2"
        await socket.say("3")


async def test_polling_without_pongs_is_ended(pinging: Running, raw: Raw) -> None:
    sid = await raw.open_polling(pinging)
    await soon(lambda: pinging.sio.stats().disconnects["ping timeout"])
    assert (await raw.get(pinging.polling_url(sid)))[0] == 400
    assert pinging.drops("ping_timeout") == 1


async def test_a_websocket_without_pongs_is_closed(pinging: Running, raw: Raw) -> None:
    socket = await raw.open(pinging)
    await socket.closed()
    assert pinging.drops("ping_timeout") == 1


# Close


async def test_polling_closes_its_session(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    poll = asyncio.create_task(raw.get(server.polling_url(sid)))
    await soon(lambda: server.sio.eio.sockets[sid].poller is not None)
    assert await raw.post(server.polling_url(sid), "1") == (200, "ok")
    assert await poll == (200, "6")
    assert (await raw.get(server.polling_url(sid)))[0] == 400


async def test_a_websocket_closes_its_session(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    await socket.say("1")
    assert await socket.closed() == 1000
    await soon(lambda: server.sio.stats().disconnects["client disconnect"] == 1)


# Upgrade


async def upgraded(server: Running, raw: Raw, sid: str) -> Socket:
    socket = await raw.connect(server.websocket_url(sid))
    await socket.say("2probe")
    assert await socket.hear() == "3probe"
    await socket.say("5")
    await soon(lambda: server.sio.eio.sockets[sid].upgraded)
    return socket


async def test_polling_is_upgraded_and_its_poll_ended(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    poll = asyncio.create_task(raw.get(server.polling_url(sid)))
    await soon(lambda: server.sio.eio.sockets[sid].poller is not None)
    socket = await raw.connect(server.websocket_url(sid))
    await socket.say("2probe")
    assert await socket.hear() == "3probe"
    assert await poll == (200, "6")
    assert await raw.get(server.polling_url(sid)) == (200, "6"), "a poll while the upgrade is under way"
    await socket.say("5", "4hello")
    assert await socket.hear() == "4hello"
    assert server.sio.stats().upgrades == 1


async def test_what_comes_during_an_upgrade_is_kept_in_order(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    assert (await raw.post(server.polling_url(sid), "4one"))[0] == 200
    socket = await raw.connect(server.websocket_url(sid))
    await socket.say("2probe")
    assert await socket.hear() == "3probe"
    assert (await raw.post(server.polling_url(sid), "4two"))[0] == 200
    await socket.say("5", "4three")
    assert [await socket.hear() for _ in range(3)] == ["4one", "4two", "4three"]


async def test_http_of_an_upgraded_session_is_refused_and_harms_nothing(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    socket = await upgraded(server, raw, sid)
    assert (await raw.get(server.polling_url(sid)))[0] == 400
    assert (await raw.post(server.polling_url(sid), "4x"))[0] == 400
    await socket.say("4hello")
    assert await socket.hear() == "4hello"


async def test_a_second_websocket_of_an_upgraded_session_is_refused_and_harms_nothing(
    server: Running, raw: Raw
) -> None:
    sid = await raw.open_polling(server)
    socket = await upgraded(server, raw, sid)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await raw.connect(server.websocket_url(sid))
    await socket.say("4hello")
    assert await socket.hear() == "4hello"


async def test_a_websocket_does_not_take_over_a_session_that_has_ended(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    late = await raw.connect(server.websocket_url(sid))
    await raw.post(server.polling_url(sid), "1")
    await late.say("2probe", "5")
    assert await late.closed() == 1002
    assert server.sio.stats().upgrades == 0


async def test_an_upgrade_that_breaks_off_leaves_the_session_polling(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    for first_words in (["2probe"], ["4not a probe"], []):
        socket = await raw.connect(server.websocket_url(sid))
        await socket.say(*first_words)
        if first_words == ["2probe"]:
            assert await socket.hear() == "3probe"
        await socket.raw.close()
        await soon(lambda: server.sio.eio.sockets[sid].wire is None)
    assert await raw.post(server.polling_url(sid), "4hello") == (200, "ok")
    assert await raw.get(server.polling_url(sid)) == (200, "4hello")


# Around it


async def test_a_preflight_names_the_page_and_what_it_may_do(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(echoing, allowed_origins=["https://app.example.org"])
    headers = {"Origin": "https://app.example.org", "Access-Control-Request-Headers": "content-type"}
    async with raw.http.options(server.polling_url(), headers=headers) as answer:
        assert answer.status == 204
        said: Any = answer.headers
    assert said["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert said["Access-Control-Allow-Credentials"] == "true"
    assert "POST" in said["Access-Control-Allow-Methods"]
    assert said["Access-Control-Allow-Headers"] == "content-type"
