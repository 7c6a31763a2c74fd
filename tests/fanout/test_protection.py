"""What one socket, address or user may take: each bound refuses or ends what passes it, and counts it by name.

The admin UI of Socket.IO, which hooks into the server from outside, has its test here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from socket import SHUT_WR
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import socketio

from realtime.domain.addresses import networks
from realtime.fanout import FanoutServer, Limits
from tests.fanout.conftest import PATIENCE_S, Raw, Running, ServeFanout, Socket, soon


def everybody(sio: FanoutServer) -> None:
    """Who connects enters the room its `auth` names, and gets what it sends acknowledged."""

    async def connect(sid: str, _environ: Any, auth: Any = None) -> None:
        if auth and "room" in auth:
            await sio.enter_room(sid, auth["room"])

    async def echo(_sid: str, *arguments: Any) -> Any:
        return arguments

    sio.on("connect", connect)
    sio.on("echo", echo)


async def alive(socket: Socket) -> None:
    """It still is answered."""
    await socket.say('421["echo","still here"]')
    while (heard := await socket.hear()) != '431["still here"]':
        assert heard == "2" or str(heard).startswith("4")


# Origin

PAGE = "https://app.example.org"


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", "http://app.example.org", f"{PAGE}.evil.org", "null", f"{PAGE}:8443"]
)
async def test_a_page_of_another_origin_is_refused_by_either_transport(
    serve_fanout: ServeFanout, raw: Raw, origin: str
) -> None:
    server = await serve_fanout(everybody, allowed_origins=[PAGE])
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await raw.connect(server.websocket_url(), headers={"Origin": origin})
    assert refused.value.status == 403
    async with raw.http.get(server.polling_url(), headers={"Origin": origin}) as answer:
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert server.drops("origin") == 2


async def test_an_allowed_page_ones_own_page_and_who_is_no_browser_are_let_in(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    server = await serve_fanout(everybody, allowed_origins=[PAGE])
    for headers in ({"Origin": PAGE}, {"Origin": server.url}, {}):
        await alive(await raw.joined(server, headers=headers))
        assert (await raw.get(server.polling_url(), headers=headers))[0] == 200
    assert server.drops("origin") == 0


@pytest.mark.parametrize("origin", ["http://[", "https://[x]", "//]"])
async def test_an_origin_that_is_no_address_is_refused_and_holds_no_connection(
    serve_fanout: ServeFanout, raw: Raw, origin: str
) -> None:
    server = await serve_fanout(everybody, allowed_origins=[PAGE])
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await raw.connect(server.websocket_url(), headers={"Origin": origin})
    assert refused.value.status == 403
    await soon(lambda: server.sio.stats().connections == 0)
    assert (await raw.get(server.polling_url(), headers={"Origin": origin}))[0] == 403


# How many


async def test_an_address_has_so_many_connections_and_gets_them_back(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(everybody, limits=Limits(connections_per_address=3))
    sockets = [await raw.joined(server) for _ in range(3)]
    with pytest.raises(aiohttp.ClientError):
        await raw.connect(server.websocket_url())
    assert server.drops("connections_per_address") >= 1  # a client may try a broken connection again
    for socket in sockets:
        await alive(socket)
    await sockets.pop().raw.close()
    await soon(lambda: server.sio.stats().connections == 2)
    await alive(await raw.joined(server))


async def test_an_upgrade_on_the_last_connection_an_address_has_is_counted_once(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    server = await serve_fanout(everybody, limits=Limits(connections_per_address=1))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
        async with http.get(server.polling_url()) as opened:
            sid = json.loads((await opened.text())[1:])["sid"]
        async with http.ws_connect(server.websocket_url(sid)) as upgrading:  # on the connection that is kept
            await upgrading.send_str("2probe")
            assert await upgrading.receive_str() == "3probe"
            assert server.sio.stats().connections == 1
            with pytest.raises(aiohttp.ClientError):
                await raw.connect(server.websocket_url())
            await upgrading.send_str("5")
            await soon(lambda: server.sio.stats().upgrades == 1)
    await soon(lambda: server.sio.stats().sockets == 0)
    assert server.sio.stats().connections == 0


async def test_a_trusted_proxy_has_as_many_connections_as_it_needs(serve_fanout: ServeFanout, raw: Raw) -> None:
    limits = Limits(connections_per_address=3, proxies=networks(["127.0.0.0/8"]))
    server = await serve_fanout(everybody, limits=limits)
    for _ in range(6):
        await alive(await raw.joined(server))
    assert server.drops("connections_per_address") == 0


async def test_a_user_has_so_many_tabs_and_gets_them_back(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(everybody, limits=Limits(tabs_per_user=2))
    tabs = [await raw.joined(server, auth={"room": "user:ann"}) for _ in range(2)]
    one_more = await raw.open(server)
    await one_more.say('40{"room":"user:ann"}')
    refused = json.loads(str(await one_more.hear())[2:])
    assert refused["data"]["code"] == "rate_limited"
    assert server.drops("tabs_per_user") == 1
    await alive(await raw.joined(server, auth={"room": "user:bob"}))
    await tabs.pop().raw.close()
    await soon(lambda: len(list(server.sio.manager.get_participants("/", "user:ann"))) == 1)
    await one_more.join(auth={"room": "user:ann"})


# How long


@pytest.mark.parametrize(
    "first_words",
    [
        b"",
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v1/calls",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-More: ",
    ],
)
async def test_a_connection_that_asks_nothing_is_dropped(serve_fanout: ServeFanout, first_words: bytes) -> None:
    server = await serve_fanout(everybody, limits=Limits(handshake_timeout_s=1.0))
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
    writer.write(first_words)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    writer.close()
    assert server.drops("handshake_timeout") == 1
    await soon(lambda: server.sio.stats().connections == 0)


async def test_what_is_no_request_is_refused_at_once(serve_fanout: ServeFanout) -> None:
    server = await serve_fanout(everybody, limits=Limits(handshake_timeout_s=2 * PATIENCE_S))
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # as TLS begins
    assert (await asyncio.wait_for(reader.readline(), PATIENCE_S)).startswith(b"HTTP/1.0 400 ")
    writer.close()


async def test_a_session_that_joins_no_namespace_is_dropped_by_either_transport(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    server = await serve_fanout(everybody, limits=Limits(handshake_timeout_s=1.0))
    idle = await raw.open(server)
    sid = await raw.open_polling(server)
    assert await idle.closed() == 1008
    await soon(lambda: server.drops("handshake_timeout") == 2)
    assert (await raw.get(server.polling_url(sid)))[0] == 400


async def test_a_session_that_left_its_namespace_has_as_long_to_join_one_and_not_until_its_next_ping(
    serve_fanout: ServeFanout, raw: Raw
) -> None:
    server = await serve_fanout(everybody, limits=Limits(handshake_timeout_s=2.0), ping_interval_s=1_000)
    leaving, back = await raw.joined(server), await raw.joined(server)
    engine = server.sio.eio
    sessions = engine.sockets.values()
    await soon(lambda: all(one.tick * engine.wheel.tick_s > engine.now() + 500 for one in sessions))
    await leaving.say("41")
    await back.say("41")
    await back.join()
    assert await leaving.closed() == 1008
    assert server.drops("handshake_timeout") == 1
    await alive(back)


@pytest.mark.parametrize("who_ends", ["the server", "the client"])
async def test_a_client_that_takes_nothing_is_rid_of_soon_after_the_end(
    serve_fanout: ServeFanout, raw: Raw, monkeypatch: pytest.MonkeyPatch, who_ends: str
) -> None:
    monkeypatch.setattr("realtime.fanout.websocket.GOODBYE_WITHIN_S", 0.3)
    server = await serve_fanout(everybody, limits=Limits(send_queue_bytes=50_000_000))
    deaf = await raw.joined(server)
    client: asyncio.BaseProtocol = deaf.raw._reader._protocol
    client.pause_reading()  # type: ignore[attr-defined]
    for _ in range(20):
        await server.sio.emit("news", "x" * 1_000_000)
    await soon(lambda: server.sio.stats().send_queue_bytes > 0)
    if who_ends == "the server":
        await server.sio.eio.disconnect()
    else:
        deaf.raw.get_extra_info("socket").shutdown(SHUT_WR)
    await soon(lambda: server.sio.stats().sockets == 0)
    await soon(lambda: server.sio.stats().connections == 0)
    client.resume_reading()  # type: ignore[attr-defined]


# How much


async def test_a_websocket_message_too_long_ends_its_socket(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(everybody, limits=Limits(message_bytes=10_000))
    bystander, sender, in_pieces = [await raw.joined(server) for _ in range(3)]
    await sender.say("42" + json.dumps(["echo", "x" * 9_000]))
    await alive(sender)
    await sender.say("42" + json.dumps(["echo", "x" * 11_000]))
    assert await sender.closed() == 1009
    await in_pieces.say('452-["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
    await in_pieces.say(b"x" * 6_000, b"x" * 6_000)
    await in_pieces.closed()
    assert server.drops("message_size") == 2
    await alive(bystander)


async def test_a_post_too_long_ends_its_session(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(everybody, limits=Limits(message_bytes=10_000))
    sid = await raw.open_polling(server)
    async with raw.http.post(server.polling_url(sid), data=io.BytesIO(b"4" * 20_000)) as answer:
        assert answer.status == 413
    assert server.drops("message_size") == 1
    assert (await raw.get(server.polling_url(sid)))[0] == 400


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_socket_that_says_too_much_at_once_is_ended(
    serve_fanout: ServeFanout, raw: Raw, transport: str
) -> None:
    server = await serve_fanout(everybody, limits=Limits(messages_per_s=1, messages_burst=20))
    bystander = await raw.joined(server)
    if transport == "websocket":
        noisy = await raw.joined(server)
        await noisy.say(*['42["echo"]'] * 30)
        assert await noisy.closed() == 1008
    else:
        sid = await raw.open_polling(server)
        await raw.post(server.polling_url(sid), "\x1e".join(["40", *['42["echo"]'] * 30]))
        await soon(lambda: sid not in server.sio.eio.sockets)
    assert server.drops("message_rate") == 1
    await alive(bystander)


async def test_a_long_message_counts_as_several_against_the_rate(serve_fanout: ServeFanout, raw: Raw) -> None:
    server = await serve_fanout(
        everybody, limits=Limits(messages_per_s=0.001, messages_burst=20, message_unit_bytes=1_000)
    )
    bystander, brief, long = [await raw.joined(server) for _ in range(3)]
    await brief.say(*['42["echo"]'] * 8)
    await long.say(*[f'42["echo","{"x" * 3_000}"]'] * 8)
    assert await long.closed() == 1008
    assert server.drops("message_rate") == 1
    await alive(brief)
    await alive(bystander)


async def test_a_process_full_of_what_nobody_takes_drops_the_slowest(serve_fanout: ServeFanout, raw: Raw) -> None:
    limits = Limits(send_queue_bytes=1_000_000, total_queue_bytes=250_000)
    server = await serve_fanout(everybody, limits=limits)
    sids = [await raw.open_polling(server) for _ in range(3)]
    for sid in sids:
        await raw.post(server.polling_url(sid), "40")
        await raw.get(server.polling_url(sid))
    to = {session.sid: session.members[0].sid for session in server.sio.eio.sockets.values()}
    for sid, weight in zip(sids, (200_000, 100_000, 50_000), strict=True):
        await server.sio.emit("m", "x" * weight, to=to[sid])
    await soon(lambda: server.drops("slow") == 1)
    assert (await raw.get(server.polling_url(sids[1])))[1].startswith("42")
    assert (await raw.get(server.polling_url(sids[2])))[1].startswith("42")
    assert server.sio.stats().send_queue_bytes <= limits.total_queue_bytes


# Authentication that runs out


@pytest.fixture
async def expiring(serve_fanout: ServeFanout) -> Running:
    def prepare(sio: FanoutServer) -> None:
        async def connect(sid: str, _environ: Any, auth: Any = None) -> None:
            sio.set_expiry(sid, time.time() + auth["for_s"])

        async def renew(sid: str, for_s: float | None) -> str:
            sio.set_expiry(sid, time.time() + for_s if for_s is not None else None)
            return "renewed"

        sio.on("connect", connect)
        sio.on("auth:renew", renew)

    # Pings only after all is over.
    return await serve_fanout(prepare, limits=Limits(expiry_grace_s=4.0))


async def test_a_socket_whose_authentication_ran_out_is_told_and_then_dropped(expiring: Running, raw: Raw) -> None:
    socket = await raw.joined(expiring, auth={"for_s": 0.1})
    assert await socket.hear() == '42["auth:expired",{"graceSeconds":4.0}]'
    assert await socket.closed() == 1008
    assert expiring.drops("expired") == 1


async def test_a_socket_that_renews_in_time_stays_and_its_new_time_counts(expiring: Running, raw: Raw) -> None:
    staying, going = [await raw.joined(expiring, auth={"for_s": 0.1}) for _ in range(2)]
    for socket, for_s in ((staying, "null"), (going, "0.1")):
        assert str(await socket.hear()).startswith('42["auth:expired"')
        await socket.say(f'427["auth:renew",{for_s}]')
        assert await socket.hear() == '437["renewed"]'
    assert str(await going.hear()).startswith('42["auth:expired"')
    assert await going.closed() == 1008
    await staying.say('428["auth:renew",null]')
    assert await staying.hear() == '438["renewed"]'
    assert expiring.drops("expired") == 1


# The admin UI


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_admin_ui_sees_sockets_rooms_and_emits_and_acts_on_them(serve_fanout: ServeFanout, raw: Raw) -> None:
    hooks: list[Any] = []

    def prepare(sio: FanoutServer) -> None:
        everybody(sio)
        hooks.append(sio.instrument(auth={"username": "admin", "password": "secret"}, mode="development"))

    server = await serve_fanout(prepare)
    admin = socketio.AsyncClient(reconnection=False)
    seen: dict[str, list[Any]] = {}

    async def note(event: str, *data: Any) -> None:
        seen.setdefault(event, []).append(data)

    admin.on("*", note, namespace="/admin")
    await admin.connect(
        server.url, namespaces=["/admin"], transports=["websocket"],
        auth={"username": "admin", "password": "secret"},
    )  # fmt: skip
    try:
        tab = await raw.open(server)
        sid = await tab.join(auth={"room": "lobby"})
        await soon(lambda: any(data[0]["id"] == sid for data in seen.get("socket_connected", [])))
        await soon(lambda: any(data[1:3] == ("lobby", sid) for data in seen.get("room_joined", [])))
        await server.sio.emit("news", 1, room="lobby")
        assert await tab.hear() == '42["news",1]'
        await server.sio.emit_many([("lobby", "batch", 2)])
        assert await tab.hear() == '42["batch",2]'
        sent = {"news", "batch"}
        await soon(lambda: sent <= {data[2][0] for data in seen.get("event_sent", [])})
        await alive(tab)
        await soon(lambda: any(data[2][0] == "echo" for data in seen.get("event_received", [])))
        await admin.emit("join", ("/", "attic", sid), namespace="/admin")
        await soon(lambda: "attic" in server.sio.rooms(sid))
        await admin.emit("emit", ("/", "attic", "hello", "from the admin"), namespace="/admin")
        assert await tab.hear() == '42["hello","from the admin"]'
        await admin.emit("_disconnect", ("/", False, sid), namespace="/admin")
        assert await tab.hear() == "41"
        await soon(lambda: any(data[1] == sid for data in seen.get("socket_disconnected", [])))
    finally:
        await admin.disconnect()
        await hooks[0].shutdown()
        hooks[0].uninstrument()
