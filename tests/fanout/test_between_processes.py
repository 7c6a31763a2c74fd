"""Between processes: who is sent what, and what happens when Redis is away, restarted, or connected and silent.

Each of the known faults of python-socketio's own Redis manager has its test here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import socketio
import structlog

from realtime.fanout import FanoutServer, bus, listening, publishing, redis_link
from realtime.fanout.messages import CONTROL, FRAMES, frames_body, payload_of
from realtime.fanout.packets import event_frames
from tests.fanout.conftest import Raw, Running, ServeFanout, Socket, soon
from tests.fanout.redis_cable import Cable, RealRedis
from tests.servers import eventually


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour with shorter times."""
    monkeypatch.setattr(bus, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(redis_link, "SHORTEST_PAUSE_S", 0.02)
    monkeypatch.setattr(redis_link, "LONGEST_PAUSE_S", 0.2)


class Node:
    """A process's server, with what it was told about gaps."""

    def __init__(self, running: Running, gaps: list[None]) -> None:
        self.running = running
        self.sio = running.sio
        self.gaps = gaps

    async def tab(self, raw: Raw, *rooms: str) -> Socket:
        socket = await raw.open(self.running)
        sid = await socket.join()
        for room in rooms:
            await self.sio.enter_room(sid, room)
        return socket


Nodes = Any


@pytest.fixture
async def node(serve_fanout: ServeFanout, redis_url: str) -> Nodes:
    async def start(url: str = redis_url, **options: Any) -> Node:
        gaps: list[None] = []

        async def on_gap() -> None:
            gaps.append(None)

        def open_to_all(sio: FanoutServer) -> None:
            async def connect(_sid: str, _environ: Any, _auth: Any = None) -> None:
                """Everybody may."""

            sio.on("connect", connect)

        return Node(await serve_fanout(open_to_all, redis_url=url, on_gap=on_gap, **options), gaps)

    return start


@pytest.fixture
async def real_redis(tmp_path: Path) -> AsyncIterator[RealRedis]:
    server = RealRedis(tmp_path)
    await server.start()
    yield server
    server.kill()


@pytest.fixture
async def commands(redis_url: str) -> AsyncIterator[Any]:
    async with redis.asyncio.from_url(redis_url) as client:
        yield client


async def next_event(socket: Socket) -> list[Any]:
    heard = str(await socket.hear_other_than_ping())
    assert heard.startswith("42"), heard
    event: list[Any] = json.loads(heard[2:])
    return event


# Who is sent what


async def test_a_process_is_sent_only_what_is_for_rooms_it_has(
    node: Nodes, raw: Raw, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "PROBE_EVERY_S", 0.5)
    async with Cable(redis_url) as to_one, Cable(redis_url) as to_two, Cable(redis_url) as to_idle:
        one, two, idle, emitter = await node(to_one.url), await node(to_two.url), await node(to_idle.url), await node()
        ann, bob = await one.tab(raw, "user:ann"), await two.tab(raw, "user:bob")
        heard_bytes = [cable.heard_bytes for cable in (to_one, to_two, to_idle)]
        text = "x" * 1_000
        for number in range(30):
            await emitter.sio.emit("m", [number, text], room="user:ann")
        await emitter.sio.emit_many(
            [("user:bob" if number % 2 else "user:nobody", "m", [number, text]) for number in range(40)]
        )
        assert [(await next_event(ann))[1][0] for _ in range(30)] == list(range(30))
        assert [(await next_event(bob))[1][0] for _ in range(20)] == list(range(1, 40, 2))
        assert [each.sio.stats().redis_received for each in (one, two, idle)] == [30, 20, 0]
        came = [
            cable.heard_bytes - before for cable, before in zip((to_one, to_two, to_idle), heard_bytes, strict=True)
        ]
        assert 30_000 < came[0] < 40_000
        assert 20_000 < came[1] < 30_000
        assert came[2] < 10_000, "its own probes"


async def test_a_room_is_no_longer_sent_some_time_after_its_last_tab_left(
    node: Nodes, raw: Raw, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "LINGER_S", 0.1)
    one = await node()
    tab = await one.tab(raw, "user:ann")
    assert await commands.pubsub_channels("socketio:room:*") == [b"socketio:room:/#user:ann"]
    await tab.raw.close()
    async with asyncio.timeout(30):
        while await commands.pubsub_channels("socketio:room:*"):
            await asyncio.sleep(0.02)
    back = await one.tab(raw, "user:ann")
    await (await node()).sio.emit("m", 1, room="user:ann")
    assert await next_event(back) == ["m", 1]


async def test_a_batch_crosses_redis_as_one_command(node: Nodes, raw: Raw, commands: Any) -> None:
    one, emitter = await node(), await node()
    tabs = [await one.tab(raw, f"user:{number}") for number in range(20)]

    await soon(lambda: emitter.sio.stats().redis_lag_s)
    await commands.config_resetstat()
    await emitter.sio.emit_many([(f"user:{number % 20}", "m", number) for number in range(400)])
    for number, tab in enumerate(tabs):
        assert [(await next_event(tab))[1] for _ in range(20)] == list(range(number, 400, 20))
    stats = await commands.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1, "probes apart, which are plain PUBLISHes"


# Redis away, and back


async def test_redis_killed_and_started_again(node: Nodes, raw: Raw, real_redis: RealRedis) -> None:
    """Emits go on locally, the subscription comes back by itself, and every process hears that it may have missed some
    messages."""
    one, two = await node(real_redis.url), await node(real_redis.url)
    here, there = await one.tab(raw, "room"), await two.tab(raw, "room")
    for _ in range(2):
        before = len(one.gaps), len(two.gaps)
        real_redis.kill()
        await soon(lambda: one.sio.deaf() and two.sio.deaf())
        assert "not subscribed to Redis" in str(one.sio.deaf())
        await one.sio.emit("while away", room="room")
        assert await next_event(here) == ["while away"]
        await one.sio.emit_many([("room", "also", 1)])
        assert await next_event(here) == ["also", 1]
        await real_redis.start()
        await soon(lambda: one.sio.deaf() is None and two.sio.deaf() is None)
        await soon(lambda before=before: len(one.gaps) > before[0] and len(two.gaps) > before[1])
        await one.sio.emit("back", room="room")
        assert await next_event(here) == ["back"]
        while (event := await next_event(there)) != ["back"]:
            assert event in (["while away"], ["also", 1]), "kept for a Redis that comes back soon"


async def test_what_redis_was_away_for_too_long_to_take_is_told_to_processes_that_noticed_nothing(
    node: Nodes, raw: Raw, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python-socketio's manager tries twice, logs, and its caller never knows (#1411)."""
    monkeypatch.setattr(publishing, "KEEP_S", 0.1)
    monkeypatch.setattr(bus, "PROBE_EVERY_S", 60.0)  # one that is under way at the cut would be lost too
    with structlog.testing.capture_logs() as lines:
        async with Cable(redis_url) as cable:
            cut_off, other = await node(cable.url), await node()
            tab = await other.tab(raw, "room")
            cable.cut()
            for _ in range(3):
                await cut_off.sio.emit("lost", room="room")
            await soon(lambda: cut_off.sio.stats().redis_lost == 3)
            assert other.gaps == []
            cable.restore()
            await soon(lambda: other.gaps and cut_off.gaps)
            await cut_off.sio.emit("after", room="room")
            assert await next_event(tab) == ["after"]
    said = [line["event"].split(";")[0] for line in lines if line["event"].startswith("messages ")]
    assert said == ["messages for other processes are lost until Redis is back", "messages reach other processes again"]


async def test_what_waits_for_redis_is_bounded(node: Nodes, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "QUEUE_BYTES", 100_000)
    async with Cable(redis_url) as cable:
        one = await node(cable.url)
        cable.cut()
        for _ in range(50):
            await one.sio.emit("m", "x" * 10_000, room="room")
        lost = one.sio.stats().redis_lost
        assert lost >= 40


async def test_what_is_lost_while_redis_goes_on_is_told_to_the_processes_as_well(
    node: Nodes, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "PROBE_EVERY_S", 60.0)  # else a probe may be among what is lost
    one, other = await node(), await node()
    await other.tab(raw, "room")
    monkeypatch.setattr(publishing, "QUEUE_BYTES", 100_000)
    await one.sio.emit("m", "x" * 200_000, room="room")
    assert one.sio.stats().redis_lost == 1
    await soon(lambda: other.gaps)


async def test_what_redis_has_taken_and_not_acknowledged_is_sent_again_and_seen_once(
    node: Nodes, raw: Raw, redis_url: str
) -> None:
    async with Cable(redis_url) as cable:
        one, other = await node(cable.url), await node()
        tab = await other.tab(raw, "room")
        for round_number in range(3):
            cable.go_deaf(listening=False)
            for number in range(5):
                await one.sio.emit("m", [round_number, number], room="room")
            assert [await next_event(tab) for _ in range(5)] == [["m", [round_number, n]] for n in range(5)]
            cable.reset()
            await soon(lambda: one.sio.deaf() is None)
        await one.sio.emit("last", room="room")
        assert await next_event(tab) == ["last"], "nothing of it came twice"


async def test_connections_that_were_lost_leave_none_behind(node: Nodes, commands: Any) -> None:
    """python-socketio's manager leaves the old ones open (#1569)."""
    one = await node()

    async def ours() -> list[dict[str, Any]]:
        return [each for each in await commands.client_list() if each["name"].startswith("callmeter-")]

    for round_number in range(5):
        gaps = len(one.gaps)
        for each in await ours():
            await commands.client_kill_filter(_id=each["id"])
        await soon(lambda gaps=gaps: len(one.gaps) > gaps and one.sio.deaf() is None)
        assert len(await ours()) <= 2, round_number


async def test_a_subscription_does_not_outlive_what_it_says_of_its_connection(node: Nodes, commands: Any) -> None:
    """A connection's own channel, held by the next one, would vouch for subscriptions that are not made yet."""
    one = await node()
    for _ in range(3):
        gaps = len(one.gaps)
        for each in await commands.client_list():
            if each["name"].startswith("callmeter-listen"):
                await commands.client_kill_filter(_id=each["id"])
        await soon(lambda gaps=gaps: len(one.gaps) > gaps)
    of_process = sorted(await commands.pubsub_channels("socketio:process:*"))
    assert [name.count(b":") for name in of_process] == [2, 3], of_process
    assert of_process[1] == of_process[0] + b":4"


async def test_a_listener_that_idles_is_not_taken_for_lost(
    node: Nodes, raw: Raw, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `socket_timeout` in the URL breaks python-socketio's idle subscription."""
    monkeypatch.setattr(bus, "PROBE_EVERY_S", 60.0)
    one, other = await node(redis_url + "?socket_timeout=0.1&socket_connect_timeout=1"), await node()
    tab = await one.tab(raw, "room")
    await asyncio.sleep(0.5)  # nothing is to happen in this time
    assert one.sio.deaf() is None
    await other.sio.emit("m", room="room")
    assert await next_event(tab) == ["m"]
    assert one.gaps == []


GARBAGE = {
    "no JSON": b"\x80\x04nonsense",
    "a number": b"1",
    "null": b"null",
    "a list": b"[]",
    "no method": b"{}",
    "an unknown method": b'{"method":"explode"}',
    "no event": b'{"method":"emit"}',
    "data of another shape": b'{"method":"emit","event":"x","data":{"_placeholder":true},"binary":true}',
    "a room that cannot be one": b'{"method":"emit","event":"x","data":1,"room":{"a":1}}',
    "a callback of nobody": b'{"method":"callback","sid":"x","id":1,"args":[]}',
    "a callback without its parts": b'{"method":"callback"}',
    "a room to close that is not named": b'{"method":"close_room"}',
    "a socket that is not here": b'{"method":"enter_room","sid":"x","room":"y"}',
    "nothing": b"",
}


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.filterwarnings("ignore")
async def test_no_message_on_redis_silences_the_listener(node: Nodes, raw: Raw, commands: Any, kind: str) -> None:
    """python-socketio's once died of one, and said nothing (#1581)."""
    one, other = await node(), await node()
    tab = await one.tab(raw, "room")
    for channel in ("socketio", "socketio:room:/#room", "socketio:everybody", "socketio:all:/"):
        await commands.publish(channel, GARBAGE[kind])
    await other.sio.emit("after", room="room")
    assert await next_event(tab) == ["after"]
    assert one.gaps == []


@pytest.mark.filterwarnings("ignore")
async def test_what_arrives_with_a_message_that_cannot_be_read_is_delivered_all_the_same(
    node: Nodes, raw: Raw, commands: Any
) -> None:
    one = await node()
    tab = await one.tab(raw, "room")
    readable = frames_body(event_frames("/", "readable", None), 1)
    async with commands.pipeline(transaction=True) as together:
        together.publish("socketio:everybody", payload_of(b"stranger", CONTROL, b"no JSON", 1))
        together.publish("socketio:room:/#room", payload_of(b"stranger", FRAMES, b"", 2))
        together.publish("socketio:room:/#room", payload_of(b"stranger", FRAMES, readable, 3))
        await together.execute()
    assert await next_event(tab) == ["readable"]
    assert one.gaps == []


async def test_a_process_that_is_subscribed_and_hears_nothing_says_so_and_subscribes_again(
    node: Nodes, raw: Raw, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "DEAF_AFTER_S", 1.5)
    async with Cable(redis_url) as cable:
        one, other = await node(cable.url), await node()
        tab = await one.tab(raw, "room")
        cable.go_deaf(listening=True)
        await other.sio.emit("unheard", room="room")
        await soon(one.sio.deaf)
        assert "its own probe has not come back" in str(one.sio.deaf())
        await soon(lambda: one.gaps)
        assert one.sio.deaf() is None
        assert other.sio.deaf() is None
        assert other.gaps == []
        await other.sio.emit("heard", room="room")
        assert await next_event(tab) == ["heard"]


async def test_a_redis_that_answers_no_subscription_is_said_and_left_for_a_new_connection(
    node: Nodes, raw: Raw, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "ANSWER_WITHIN_S", 0.2)
    async with Cable(redis_url) as cable:
        cable.deaf_to_subscriptions = True
        one, other = await node(cable.url), await node()
        await soon(lambda: "it does not answer a subscription" in str(one.sio.deaf()))
        cable.deaf_to_subscriptions = False
        await soon(lambda: one.sio.deaf() is None)
        tab = await one.tab(raw, "room")
        await other.sio.emit("heard", room="room")
        assert await next_event(tab) == ["heard"]


async def test_a_subscription_that_comes_after_its_tab_stopped_waiting_for_it_is_a_gap(
    node: Nodes, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SUBSCRIBE_WAIT_S", 0.0)
    one = await node()
    await one.tab(raw, "room")
    await soon(lambda: one.gaps)


async def test_a_process_that_waits_to_leave_a_room_while_nothing_comes_back_still_connects_again(
    node: Nodes, raw: Raw, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DEAF_AFTER_S": 0.5, "LINGER_S": 0.0, "DROP_LEFT_EVERY_S": 0.05}.items():
        monkeypatch.setattr(bus, name, value)
    async with Cable(redis_url) as cable:
        one = await node(cable.url)
        tab = await one.tab(raw, "room")
        cable.go_deaf(listening=True)
        cable.go_deaf(listening=False)
        await one.sio.emit("m", room="another room")
        await tab.raw.close()
        await soon(lambda: one.gaps and one.sio.deaf() is None)


async def test_a_process_that_stood_still_does_not_take_itself_for_deaf(
    node: Nodes, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "DEAF_AFTER_S", 0.2)
    one, other = await node(), await node()
    tab = await one.tab(raw, "room")
    with structlog.testing.capture_logs() as logs:
        time.sleep(0.6)  # this is the fault: nothing runs in this process
        await other.sio.emit("m", room="room")
        assert await next_event(tab) == ["m"]
        lag_s = one.sio.stats().redis_lag_s
        await soon(lambda: one.sio.stats().redis_lag_s != lag_s)
    assert not [entry for entry in logs if "deaf" in entry["event"]]
    assert (one.gaps, other.gaps) == ([], [])


async def test_a_start_without_redis_serves_and_joins_when_it_comes(
    node: Nodes, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.fanout.server.REDIS_START_S", 0.1)
    late = RealRedis(tmp_path)
    one, two = await node(late.url), await node(late.url)
    here, there = await one.tab(raw, "room"), await two.tab(raw, "room")
    await one.sio.emit("alone", room="room")
    assert await next_event(here) == ["alone"]
    await late.start()
    try:
        await soon(lambda: one.gaps and two.gaps and not one.sio.deaf() and not two.sio.deaf())
        await two.sio.emit("together", room="room")
        assert await next_event(there) in (["together"], ["alone"])
        assert await next_event(here) == ["together"]
    finally:
        late.kill()


async def test_a_redis_that_takes_no_more_clients_is_tried_with_pauses_and_joined_when_it_does(
    node: Nodes, raw: Raw, real_redis: RealRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.fanout.server.REDIS_START_S", 0.1)
    pauses = 0
    pause = redis_link.Backoff.pause

    async def counted(backoff: redis_link.Backoff) -> None:
        nonlocal pauses
        pauses += 1
        await pause(backoff)

    monkeypatch.setattr(redis_link.Backoff, "pause", counted)
    async with redis.asyncio.from_url(real_redis.url, single_connection_client=True) as operator:
        await operator.config_set("maxclients", 1)
        one = await node(real_redis.url)

        async def rejected() -> int:
            return int((await operator.info("stats"))["rejected_connections"])

        async def rejected_often() -> bool:
            return await rejected() > 20

        await eventually(rejected_often)
        assert await rejected() <= pauses + 2  # of its two connections, one try each may be under way
        await operator.config_set("maxclients", 100)
        await soon(lambda: not one.sio.deaf())
        other = await node(real_redis.url)
        tab = await other.tab(raw, "room")
        await soon(lambda: not other.sio.deaf())
        await one.sio.emit("together", room="room")
        assert await next_event(tab) == ["together"]


# Others who emit


@pytest.mark.parametrize("data", [{"a": 1}, b"\x01\x02", [b"\x03", {"deep": b"\x04"}], None, ("two", 2)], ids=repr)
async def test_a_stock_emitter_in_another_process_reaches_every_process(
    node: Nodes, raw: Raw, redis_url: str, data: Any
) -> None:
    one, two = await node(), await node()
    ann, bob = await one.tab(raw, "user:ann"), await two.tab(raw, "user:bob")
    stock = socketio.AsyncRedisManager(redis_url, write_only=True)
    await stock.emit("one room", data, room="user:ann")
    await stock.emit("everybody", 1)
    expected = [] if data is None else list(data) if isinstance(data, tuple) else [data]
    assert await whole_event(ann) == ["one room", *expected]
    assert await next_event(ann) == await next_event(bob) == ["everybody", 1]
    await stock.redis.aclose()


async def whole_event(socket: Socket) -> list[Any]:
    """The next event with its attachments in place."""
    packet = socketio.packet.Packet(encoded_packet=str(await socket.hear_other_than_ping())[1:])
    while packet.attachment_count > len(packet.attachments):
        packet.add_attachment(await socket.hear())
    event: list[Any] = packet.data
    return event


async def test_a_stock_manager_moves_and_ends_sockets_of_any_process(node: Nodes, raw: Raw, redis_url: str) -> None:
    one, two = await node(), await node()
    tabs = [await each.tab(raw) for each in (one, two)]
    sids = [next(iter(each.sio.manager.get_participants("/", None)))[0] for each in (one, two)]
    stock = socketio.AsyncRedisManager(redis_url, write_only=True)
    for sid in sids:
        await stock.enter_room(sid, "/", "room")
    await soon(lambda: all("room" in each.sio.rooms(sid) for each, sid in zip((one, two), sids, strict=True)))
    await stock.emit("m", None, room="room")
    assert [await next_event(tab) for tab in tabs] == [["m"], ["m"]]
    await stock.can_disconnect(sids[1], "/")
    assert await tabs[1].hear_other_than_ping() == "41"
    await stock.close_room("room", "/")
    await soon(lambda: one.sio.rooms(sids[0]) == [sids[0]])
    await stock.redis.aclose()


async def test_acknowledgements_rooms_and_ends_cross_processes(node: Nodes, raw: Raw) -> None:
    one, two = await node(), await node()
    tab = await two.tab(raw)
    sid = next(iter(two.sio.manager.get_participants("/", None)))[0]
    asked = asyncio.create_task(one.sio.call("question", b"\x05", to=sid, timeout=30))
    question = str(await tab.hear_other_than_ping())
    assert await tab.hear() == b"\x05"
    number = question[len("451-") : question.index("[")]
    await tab.say(f'43{number}["answer"]')
    assert await asked == "answer"
    await one.sio.enter_room(sid, "from afar")
    await soon(lambda: "from afar" in two.sio.rooms(sid))
    await one.sio.emit("m", room=["from afar", "nowhere"], skip_sid="somebody else")
    assert await next_event(tab) == ["m"]
    await one.sio.disconnect(sid)
    assert await tab.hear_other_than_ping() == "41"


async def test_a_redis_that_refuses_publications_is_said_once_and_tried_until_it_takes_them(
    node: Nodes, raw: Raw, real_redis: RealRedis
) -> None:
    async with redis.asyncio.from_url(real_redis.url) as operator:
        allow = ("ACL", "SETUSER", "fanout", "on", ">pass", "~*", "&*", "+@all")
        await operator.execute_command(*allow, "-publish", "-evalsha")
        with structlog.testing.capture_logs() as lines:
            one = await node(f"unix://fanout:pass@{real_redis.path}")
            other = await node(real_redis.url)
            tab = await other.tab(raw, "room")
            await one.sio.emit("in the end", room="room")

            async def refused_often() -> bool:
                statistics = await operator.info("commandstats")
                return bool(statistics.get("cmdstat_publish", {}).get("rejected_calls", 0) > 3)

            await eventually(refused_often)
            said = [line for line in lines if line["event"] == "Redis refused a publication"]
            assert len(said) == 1, said
            assert "NOPERM" in said[0]["answer"]
            await operator.execute_command(*allow)
            assert await next_event(tab) == ["in the end"]


async def test_a_redis_that_refuses_subscriptions_is_not_ready_to_serve_with_until_it_takes_them(
    node: Nodes, raw: Raw, real_redis: RealRedis
) -> None:
    async with redis.asyncio.from_url(real_redis.url) as operator:
        allow = ("ACL", "SETUSER", "fanout", "on", ">pass", "~*", "&*", "+@all")
        await operator.execute_command(*allow, "-subscribe")
        one, other = await node(f"unix://fanout:pass@{real_redis.path}"), await node(real_redis.url)
        await soon(lambda: "it refused a subscription: NOPERM" in str(one.sio.deaf()))
        await operator.execute_command(*allow)
        await soon(lambda: one.sio.deaf() is None)
        tab = await one.tab(raw, "room")
        await other.sio.emit("in the end", room="room")
        assert await next_event(tab) == ["in the end"]
