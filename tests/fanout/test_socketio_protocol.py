"""Socket.IO v5: counterparts of the cases of its public test suite (socketio/socket.io-protocol), and some more."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import socketio

from realtime.fanout import FanoutServer, Limits
from tests.fanout.conftest import PATIENCE_S, Raw, Running, ServeFanout, Socket, soon


def conforming(sio: FanoutServer) -> None:
    """The server the suite asks for: it says `auth` on connect, and gives back what it gets."""
    for namespace in ("/", "/custom"):

        def made(namespace: str) -> None:
            async def connect(sid: str, _environ: Any, auth: Any = None) -> None:
                await sio.emit("auth", auth or {}, to=sid, namespace=namespace)

            async def message(sid: str, *arguments: Any) -> None:
                await sio.emit("message-back", arguments, to=sid, namespace=namespace)

            async def with_ack(_sid: str, *arguments: Any) -> Any:
                return arguments

            sio.on("connect", connect, namespace=namespace)
            sio.on("message", message, namespace=namespace)
            sio.on("message-with-ack", with_ack, namespace=namespace)

        made(namespace)


@pytest.fixture
async def server(serve_fanout: ServeFanout) -> Running:
    return await serve_fanout(conforming)


async def ready(raw: Raw, server: Running, namespace: str = "/") -> Socket:
    """A socket that has joined and heard its `auth`."""
    socket = await raw.joined(server, namespace)
    assert '"auth"' in str(await socket.hear())
    return socket


# Connecting


@pytest.mark.parametrize("namespace", ["/", "/custom"])
@pytest.mark.parametrize("auth", [None, {"token": "123"}], ids=["without a payload", "with a payload"])
async def test_a_socket_connects_to_a_namespace(server: Running, raw: Raw, namespace: str, auth: Any) -> None:
    socket = await raw.open(server)
    assert isinstance(await socket.join(namespace, auth), str)
    prefix = "42" if namespace == "/" else "42/custom,"
    event = await socket.hear()
    assert isinstance(event, str)
    assert event.startswith(prefix)
    assert json.loads(event[len(prefix) :]) == ["auth", auth or {}]


async def test_a_namespace_nobody_serves_is_refused_and_the_socket_goes_on(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    await socket.say("40/random,")
    answer = str(await socket.hear())
    assert answer.startswith("44/random,")
    assert json.loads(answer[len("44/random,") :]) == {"message": "Invalid namespace"}
    await socket.join()


async def test_one_connection_carries_two_namespaces_apart(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    await socket.join("/custom")
    assert await socket.hear() == '42/custom,["auth",{}]'
    await socket.say('42/custom,["message","there"]', '42["message","here"]')
    assert {await socket.hear(), await socket.hear()} == {
        '42/custom,["message-back","there"]', '42["message-back","here"]',
    }  # fmt: skip


async def test_a_handshake_that_is_none_closes_the_connection(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    await socket.say("4abc")
    await socket.closed()


async def test_a_connection_without_a_handshake_is_closed(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(conforming, limits=Limits(handshake_timeout_s=1.0))
    socket = await raw.open(server)
    await socket.closed()
    assert server.drops("handshake_timeout") == 1


async def test_a_socket_that_is_disconnected_while_it_connects_is_connected_no_longer(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    asked, answered, left = asyncio.Event(), asyncio.Event(), []
    sids: list[str] = []

    def slow(sio: FanoutServer) -> None:
        async def connect(sid: str, _environ: Any) -> None:
            sids.append(sid)
            asked.set()
            await answered.wait()

        async def disconnect(_sid: str, reason: str) -> None:
            left.append(reason)

        sio.on("connect", connect)
        sio.on("disconnect", disconnect)

    server = await serve_fanout(slow)
    socket = await raw.open(server)
    await socket.say("40")
    await asyncio.wait_for(asked.wait(), PATIENCE_S)
    await server.sio.disconnect(sids[0])
    answered.set()
    assert str(await socket.hear()).startswith("40{")
    assert await socket.hear() == "41"
    assert left == ["server disconnect"]


async def test_a_second_connect_to_a_namespace_changes_nothing(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    await socket.say("40", '42["message",1]')
    assert await socket.hear() == '42["message-back",1]'


# Leaving


async def test_a_socket_leaves_the_main_namespace_and_is_told_nothing_more(server: Running, raw: Raw) -> None:
    gone = asyncio.Event()

    async def disconnect(_sid: str, reason: str) -> None:
        assert reason == "client disconnect"
        gone.set()

    server.sio.on("disconnect", disconnect)
    socket = await ready(raw, server)
    await socket.say("41")
    await asyncio.wait_for(gone.wait(), 30)
    await server.sio.emit("to nobody")
    await socket.say('42["message",1]', "40")
    assert str(await socket.hear()).startswith("40{"), "neither the broadcast nor an answer came before"


async def test_a_socket_leaves_one_namespace_and_stays_in_the_other(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    await socket.join("/custom")
    await socket.hear()
    await socket.say("41/custom,", '42["message","to the main namespace"]')
    assert await socket.hear() == '42["message-back","to the main namespace"]'
    await server.sio.emit("x", namespace="/custom")
    await server.sio.emit("y")
    assert await socket.hear() == '42["y"]'


async def test_the_server_takes_a_socket_out_of_a_namespace(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    sid = await socket.join()
    await socket.hear()
    await server.sio.disconnect(sid)
    assert await socket.hear() == "41"


# Messages


async def test_an_event_and_its_arguments_of_any_kind(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    await socket.say('42["message",1,"2",{"3":[true]}]')
    assert await socket.hear() == '42["message-back",1,"2",{"3":[true]}]'
    await socket.say('42["message",null,1.5,"é🎈",[[]],{}]')
    assert json.loads(str(await socket.hear())[2:]) == ["message-back", None, 1.5, "é🎈", [[]], {}]


async def test_an_event_with_binary_attachments(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    head = '["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    await socket.say("452-" + head, b"\x01\x02\x03", b"\x04\x05\x06")
    assert await socket.hear() == "452-" + head.replace("message", "message-back")
    assert await socket.hear() == b"\x01\x02\x03"
    assert await socket.hear() == b"\x04\x05\x06"


async def test_an_event_with_an_acknowledgement(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    await socket.say('42456["message-with-ack",1,"2",{"3":[false]}]')
    assert await socket.hear() == '43456[1,"2",{"3":[false]}]'
    await socket.say('420["message-with-ack"]')
    assert await socket.hear() == "430[]"


async def test_an_event_with_binary_attachments_and_an_acknowledgement(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    await socket.say('452-789["message-with-ack",' + placeholders, b"\x01\x02\x03", b"\x04\x05\x06")
    assert await socket.hear() == "462-789[" + placeholders
    assert await socket.hear() == b"\x01\x02\x03"
    assert await socket.hear() == b"\x04\x05\x06"


async def test_the_client_acknowledges_what_the_server_asks(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    sid = await socket.join()
    await socket.hear()
    asked = asyncio.create_task(server.sio.call("question", {"n": 1}, to=sid, timeout=30))
    question = str(await socket.hear())
    number = question[2 : question.index("[")]
    assert json.loads(question[2 + len(number) :]) == ["question", {"n": 1}]
    await socket.say(f'43{number}["answer"]')
    assert await asked == "answer"
    again = asyncio.create_task(server.sio.call("question", b"\x07", to=sid, timeout=30))
    question = str(await socket.hear())
    assert question.startswith("451-")
    assert await socket.hear() == b"\x07"
    number = question[len("451-") : question.index("[")]
    await socket.say(f'461-{number}[{{"_placeholder":true,"num":0}}]', b"\x08")
    assert await again == b"\x08"


async def test_an_acknowledgement_of_nothing_changes_nothing(server: Running, raw: Raw) -> None:
    socket = await ready(raw, server)
    await socket.say("43999[1]", "430[]", '42["message",1]')
    assert await socket.hear() == '42["message-back",1]'


@pytest.mark.parametrize(
    "packet",
    [
        "4abc", "42{}", '42abc["message-with-ack",1]', "42[", "42[]", "42[1]", "42null", "4", "47", "42",
        '42["connect",1]', '42["disconnect",1]', '42["connect_error",1]', '42["disconnecting",1]',
        "452-[", '451-["message",{"_placeholder":true,"num":1}]', "43", "431{}", "4399999999999999999999999",
        '45-["message"]', "4" + "2" * 200,
    ],
)  # fmt: skip
async def test_a_malformed_packet_closes_the_connection(server: Running, raw: Raw, packet: str) -> None:
    socket = await ready(raw, server)
    await socket.say(packet)
    if packet.startswith("451-"):
        await socket.say(b"\x00")
    await socket.closed()
    await soon(lambda: not server.sio.eio.sockets)
    assert server.sio.stats().disconnects["parse error"] == 1


@pytest.mark.parametrize(
    "packets", [[b"\x01"], ['451-["message",{"_placeholder":true,"num":0}]', '42["message",1]']],
    ids=["nobody announced", "text in the place of"],
)  # fmt: skip
async def test_binary_out_of_place_closes_the_connection(server: Running, raw: Raw, packets: list[str | bytes]) -> None:
    socket = await ready(raw, server)
    await socket.say(*packets)
    await socket.closed()


async def test_events_before_connecting_reach_nobody(server: Running, raw: Raw) -> None:
    socket = await raw.open(server)
    await socket.say('421["message-with-ack",1]', '42/custom,1["message-with-ack",1]', "40")
    assert str(await socket.hear()).startswith("40{")


async def test_messages_to_a_socket_that_is_being_admitted_follow_its_welcome(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    def prepare(sio: FanoutServer) -> None:
        async def connect(sid: str, _environ: Any, _auth: Any = None) -> None:
            await sio.enter_room(sid, "room")
            await sio.emit("first", room="room")
            await sio.emit("second", to=sid)

        sio.on("connect", connect)

    server = await serve_fanout(prepare)
    socket = await raw.joined(server)
    assert [await socket.hear(), await socket.hear()] == ['42["first"]', '42["second"]']


@pytest.mark.parametrize(
    ("refuse", "told"),
    [
        (lambda: socketio.exceptions.ConnectionRefusedError("no", {"code": "busy"}),
         {"message": "no", "data": {"code": "busy"}}),
        (lambda: ValueError("a fault of ours"), {"message": "Connection refused by server"}),
    ],
)  # fmt: skip
async def test_a_refused_socket_is_told_why_and_stays_out(
    serve_fanout: ServeFanout, raw: Raw, refuse: Any, told: dict[str, Any]
) -> None:
    def prepare(sio: FanoutServer) -> None:
        async def connect(_sid: str, _environ: Any, _auth: Any = None) -> None:
            raise refuse()

        sio.on("connect", connect)

    server = await serve_fanout(prepare)
    socket = await raw.open(server)
    await socket.say("40")
    answer = str(await socket.hear())
    assert answer.startswith("44")
    assert json.loads(answer[2:]) == told
    assert server.drops("refused") == 1
    await server.sio.emit("to everybody")
    assert not list(server.sio.manager.get_participants("/", None))


async def test_the_same_over_polling(server: Running, raw: Raw) -> None:
    sid = await raw.open_polling(server)
    url = server.polling_url(sid)
    assert await raw.post(url, '40\x1e4212["message-with-ack",1]') == (200, "ok")
    heard = ""
    while "4312[1]" not in heard:
        status, text = await raw.get(url)
        assert status == 200
        heard += "\x1e" + text
    assert heard.split("\x1e")[1].startswith("40{")
    body = '451-["message",{"_placeholder":true,"num":0}]\x1ebAQID'
    assert await raw.post(url, body) == (200, "ok")
    assert await raw.get(url) == (200, body.replace("message", "message-back"))
