"""The client manager: rooms, and the way of a message to everybody in one.

A message is encoded once. Sockets of this process get it at once, before and whether or not Redis takes it; the other
processes get the encoded frames, under the name of the room, and write them as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Hashable, Iterable, Iterator
from os import write
from typing import TYPE_CHECKING, Any

import socketio
import structlog
from socketio.exceptions import ConnectionRefusedError as Refused
from socketio.packet import EVENT, Packet

from realtime.fanout.batch import Batch
from realtime.fanout.bus import Bus
from realtime.fanout.channels import Channels
from realtime.fanout.messages import (
    CONTROL,
    FRAMES,
    LONGEST_RUN,
    ROOMS,
    Aim,
    Message,
    arguments_as_json,
    arguments_from_json,
    frames_body,
    from_frames_body,
    from_rooms_body,
    rooms_body,
)
from realtime.fanout.packets import event_frames, frames_of
from realtime.fanout.rooms import CONNECTED, CONNECTING, DISCONNECTING, Member, Namespace
from realtime.fanout.sessions import Held, Session

if TYPE_CHECKING:
    from realtime.fanout.server import FanoutServer

log = structlog.get_logger()

_SOCKET_ID = re.compile(r"[A-Za-z0-9]{8}\.[A-Za-z0-9_-]{20}")
UNREADABLE = "a message of another process could not be read"
EMITS_A_TURN = 128
"""A task that emits without end lets the others run after so many."""


class FanoutManager(socketio.AsyncManager):  # type: ignore[misc]
    """Rooms of this process, and `bus` to the others; None when there is no Redis."""

    name = "fanout"
    server: FanoutServer

    def __init__(self, tag: str, channel: str) -> None:
        super().__init__()
        self.host_id = tag
        self.channels = Channels(channel)
        self.bus: Bus | None = None
        self.spaces: dict[str, Namespace] = {}
        self._sent_this_turn = 0

    def initialize(self) -> None:
        """Nothing is left to the first request: `FanoutServer.start` has connected to Redis."""

    # -- sending -------------------------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str | None = None,
        room: Any = None,
        skip_sid: Any = None,
        callback: Any = None,
        to: Any = None,
        **options: Any,
    ) -> None:
        namespace = namespace or "/"
        room = to or room
        everywhere = not options.get("ignore_queue")
        skip = [skip_sid] if isinstance(skip_sid, str) else skip_sid or ()
        if callback is not None:
            await self._emit_with_callback(
                event, data, namespace, room, skip=skip, callback=callback, everywhere=everywhere
            )
            return
        frames = self._frames(namespace, event, data)
        space = self.spaces.get(namespace)
        if space is not None:
            self.deliver(_without(space.within(room), skip), frames)
        if everywhere:
            self.forward(namespace, room, frames, skip)
            await self._take_turns()

    async def emit_many(self, namespace: str, pushes: Iterable[tuple[Any, str, Any]]) -> None:
        """Each `(room, event, data)` in order: one write for each socket here, one command to Redis for all of it."""
        space = self.spaces.get(namespace)
        batch = Batch()
        run: list[bytes] = []
        run_room: Any = None
        for room, event, data in pushes:
            frames = self._frames(namespace, event, data)
            if space is not None:
                batch.add(space.within(room), frames)
            if run and (room != run_room or len(run) == LONGEST_RUN):
                self.forward(namespace, run_room, b"".join(run), (), packets=len(run))
                run = []
            run_room = room
            run.append(frames)
        if run:
            self.forward(namespace, run_room, b"".join(run), (), packets=len(run))
        self.server.eio.counters.messages_out += batch.messages
        self.server.eio.counters.bytes_out += batch.send()
        await self._take_turns()

    def greet(self, sid: str, namespace: str, messages: Iterable[tuple[str, Any]]) -> None:
        """Send one socket of this process what it is to hear before anything that is held back for it."""
        member = self.member(sid, namespace)
        if member is None:
            return
        frames = [self._frames(namespace, event, data) for event, data in messages]
        together = b"".join(frames)
        if isinstance(member.outlet, Held):
            member.outlet.lead(together)
        else:
            member.session.send(together)
        self.server.eio.counters.messages_out += len(frames)
        self.server.eio.counters.bytes_out += len(together)

    def deliver(self, members: Collection[Member], frames: bytes) -> None:
        """Write to the sockets that take it, and leave it for the others. The loop that broadcasts live in."""
        size = len(frames)
        for member in members:
            outlet = member.outlet
            fd = outlet.fd
            if fd >= 0:  # only a session has one
                try:
                    sent = write(fd, frames)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    outlet.break_off()
                    continue
                if sent != size:
                    outlet.fall_behind(frames[sent:])
            else:
                outlet.enqueue(frames)
        counters = self.server.eio.counters
        counters.messages_out += len(members)
        counters.bytes_out += size * len(members)

    def forward(self, namespace: str, room: Any, frames: bytes, skip: Collection[str], packets: int = 1) -> None:
        """Tell the other processes; `frames` are those of so many packets."""
        bus = self.bus
        if bus is None:
            return
        channels = self.channels
        if isinstance(room, str):
            space = self.spaces.get(namespace)
            if space is not None and room in space.members:
                return  # a socket of this process is nowhere else
            if _SOCKET_ID.fullmatch(room):
                if (tag := room[:8]) != self.host_id:
                    body = rooms_body(Aim(namespace, [room], list(skip), packets), frames)
                    bus.publish([channels.of_process(tag)], ROOMS, body)
                return
        if skip or not (room is None or isinstance(room, str)):
            rooms = list(room) if isinstance(room, (list, tuple, set, frozenset)) else [room]
            targets = dict.fromkeys(self._channel_of(namespace, one) for one in rooms)
            bus.publish(targets, ROOMS, rooms_body(Aim(namespace, rooms, list(skip), packets), frames))
        else:
            bus.publish([channels.of_room(namespace, room)], FRAMES, frames_body(frames, packets))

    def _channel_of(self, namespace: str, room: Any) -> bytes:
        if isinstance(room, str) and _SOCKET_ID.fullmatch(room):
            return self.channels.of_process(room[:8])
        return self.channels.of_room(namespace, room)

    def _frames(self, namespace: str, event: str, data: Any, ack_id: int | None = None) -> bytes:
        packet_class = self.server.packet_class
        if packet_class is Packet:
            return event_frames(namespace, event, data, ack_id)
        arguments = list(data) if isinstance(data, tuple) else [] if data is None else [data]
        return frames_of(packet_class(EVENT, namespace=namespace, data=[event, *arguments], id=ack_id).encode())

    async def _emit_with_callback(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any,
        *,
        skip: Collection[str],
        callback: Any,
        everywhere: bool,
    ) -> None:
        if room is None:
            raise ValueError("Cannot use callback without a room set.")
        space = self.spaces.get(namespace)
        for member in _without(space.within(room), skip) if space is not None else ():
            frames = self._frames(namespace, event, data, self._generate_ack_id(member.sid, callback))
            self.deliver((member,), frames)
        here = space is not None and isinstance(room, str) and room in space.members
        if everywhere and not here and self.bus is not None:
            message = {
                "method": "ask",
                "event": event,
                **arguments_as_json(data),
                "namespace": namespace,
                "rooms": [room],
                "skip": list(skip),
                "id": self._generate_ack_id(room, callback),
                "sid": room,
                "host": self.host_id,
            }
            self.bus.publish([self._channel_of(namespace, room)], CONTROL, json.dumps(message).encode())

    async def _take_turns(self) -> None:
        self._sent_this_turn += 1
        if self._sent_this_turn == 1:
            self.server.eio.loop.call_soon(self._new_turn)
        elif self._sent_this_turn >= EMITS_A_TURN:
            await self.server.sleep(0)
        if self.bus is not None and self.bus.crowded:
            await self.bus.room()

    def _new_turn(self) -> None:
        self._sent_this_turn = 0

    # -- what comes from other processes -------------------------------------------------------------------------

    def on_messages(self, messages: list[Message]) -> None:
        """Deliver what arrived together; one that nobody understands is passed over."""
        batch = Batch()
        for channel, _sender, kind, body in messages:
            try:
                if kind == FRAMES:
                    namespace, room = self.channels.room_of(channel)
                    space = self.spaces.get(namespace)
                    if space is not None:
                        batch.add(space.within(room), *from_frames_body(body))
                elif kind == ROOMS:
                    self._on_rooms(batch, body)
                elif kind == CONTROL:
                    self._send_batch(batch)
                    self._on_control(json.loads(body))
            except Exception:
                log.exception(UNREADABLE)
        self._send_batch(batch)

    def _send_batch(self, batch: Batch) -> None:
        counters = self.server.eio.counters
        counters.messages_out += batch.messages
        batch.messages = 0
        counters.bytes_out += batch.send()

    def _on_rooms(self, batch: Batch, body: bytes) -> None:
        aim, frames = from_rooms_body(body)
        space = self.spaces.get(aim.namespace)
        if space is not None:
            rooms: Any = None if None in aim.rooms else aim.rooms
            batch.add(_without(space.within(rooms), aim.skip), frames, aim.packets)

    def _on_ask(self, message: dict[str, Any]) -> None:
        """Send an event whose acknowledgement another process waits for."""

        def acknowledged(*arguments: Any) -> None:
            answer = {"method": "callback", "sid": message["sid"], "id": message["id"], "args": list(arguments)}
            self._tell_process(message["host"], answer)

        namespace = message["namespace"]
        space = self.spaces.get(namespace)
        for member in _without(space.within(message["rooms"]), message["skip"]) if space is not None else ():
            ack_id = self._generate_ack_id(member.sid, acknowledged)
            self.deliver((member,), self._frames(namespace, message["event"], arguments_from_json(message), ack_id))

    def on_stock(self, payload: bytes) -> None:
        """A message in python-socketio's own format, from an emitter that knows no other."""
        try:
            message = json.loads(payload)
            method = message["method"]
        except (ValueError, TypeError, KeyError):
            return
        if method == "emit":
            self.server.eio.background(self._handle_emit(message))
            return
        try:
            self._on_control(message)
        except Exception:
            log.exception(UNREADABLE)

    async def _handle_emit(self, message: dict[str, Any]) -> None:
        await self.emit(
            message["event"],
            arguments_from_json(message),
            namespace=message.get("namespace"),
            room=message.get("room"),
            skip_sid=message.get("skip_sid"),
            ignore_queue=True,
        )

    def _on_control(self, message: dict[str, Any]) -> None:
        method, namespace, sid = message.get("method"), message.get("namespace") or "/", str(message.get("sid"))
        if method == "ask":
            self._on_ask(message)
        elif method == "disconnect":
            self.server.eio.background(self.server.disconnect(sid, namespace=namespace, ignore_queue=True))
        elif method == "callback":
            self.server.eio.background(self.trigger_callback(sid, message["id"], message["args"]))
        elif method == "close_room":
            self.basic_close_room(message["room"], namespace)
        elif method in ("enter_room", "leave_room") and self.member(sid, namespace) is not None:
            act = self.basic_enter_room if method == "enter_room" else self.basic_leave_room
            act(sid, namespace, message["room"])

    def _tell_process(self, tag: str, message: dict[str, Any]) -> None:
        if self.bus is not None:
            self.bus.publish([self.channels.of_process(tag)], CONTROL, json.dumps(message).encode())

    def _tell_host_of(self, sid: str, message: dict[str, Any]) -> None:
        if _SOCKET_ID.fullmatch(sid) and sid[:8] != self.host_id:
            self._tell_process(sid[:8], message)

    # -- sockets coming and going --------------------------------------------------------------------------------

    def admit(self, session: Session, namespace: str) -> Member | None:
        """A place for a socket that is to be authenticated; None if the session has one there already."""
        if session.member_in(namespace) is not None:
            return None
        sid = self.server.eio.generate_id()
        member = Member(sid, namespace, session, Held(session))
        space = self.spaces.get(namespace)
        if space is None:
            space = self.spaces[namespace] = Namespace()
            self._listen_to(namespace, None)
        space.members[sid] = member
        session.members = (*session.members, member)
        return member

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        session = self.server.eio.sockets.get(eio_sid)
        member = self.admit(session, namespace) if session is not None else None
        return member.sid if member is not None else None

    async def connect(self, sid: str, namespace: str) -> str:
        member = self.member(sid, namespace)
        if member is not None and member.state == CONNECTING:
            self.welcome(member)
        return sid

    def welcome(self, member: Member) -> None:
        """It has been told that it is connected: what was held back follows, and everything else from now on."""
        member.state = CONNECTED
        held, member.outlet = member.outlet, member.session
        if isinstance(held, Held) and held.frames:
            member.session.send(b"".join(held.frames))

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        if self.member(sid, namespace) is not None:
            return self.is_connected(sid, namespace)
        self._tell_host_of(sid, {"method": "disconnect", "sid": sid, "namespace": namespace or "/"})
        return False

    def pre_disconnect(self, sid: str, namespace: str) -> str | None:
        member = self.member(sid, namespace)
        if member is None:
            return None
        member.state = DISCONNECTING
        return member.session.sid

    async def disconnect(self, sid: str, namespace: str, **options: Any) -> None:
        if self.member(sid, namespace) is not None:
            self.basic_disconnect(sid, namespace)
        elif not options.get("ignore_queue"):
            self._tell_host_of(sid, {"method": "disconnect", "sid": sid, "namespace": namespace or "/"})

    def basic_disconnect(self, sid: str, namespace: str, **options: Any) -> None:
        member = self.member(sid, namespace)
        if member is None:
            return
        space = self.spaces[namespace]
        for room in member.rooms:
            self.basic_leave_room(sid, namespace, room)
        del space.members[sid]
        session = member.session
        session.members = tuple(other for other in session.members if other is not member)
        session.left()
        session.engine.wheel.cancel(member)
        self.callbacks.pop(sid, None)
        if not space.members:
            del self.spaces[namespace]
            self._stop_listening_to(namespace, None)

    # -- rooms ---------------------------------------------------------------------------------------------------

    async def enter_room(self, sid: str, namespace: str, room: Hashable, eio_sid: str | None = None) -> None:
        """Enter, and wait until messages of other processes for the room arrive."""
        if self.member(sid, namespace) is not None:
            self.basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
            if self.bus is not None:
                await self.bus.subscribed(self.channels.of_room(namespace, room))
        else:
            self._tell_host_of(sid, {"method": "enter_room", "sid": sid, "namespace": namespace, "room": room})

    async def leave_room(self, sid: str, namespace: str, room: Hashable) -> None:
        if self.member(sid, namespace) is not None:
            self.basic_leave_room(sid, namespace, room)
        else:
            self._tell_host_of(sid, {"method": "leave_room", "sid": sid, "namespace": namespace, "room": room})

    async def close_room(self, room: Hashable, namespace: str | None = None) -> None:
        namespace = namespace or "/"
        self.basic_close_room(room, namespace)
        if self.bus is not None:
            message = {"method": "close_room", "room": room, "namespace": namespace}
            self.bus.publish([self._channel_of(namespace, room)], CONTROL, json.dumps(message).encode())

    def basic_enter_room(self, sid: str, namespace: str, room: Hashable, eio_sid: str | None = None) -> None:
        member = self.member(sid, namespace)
        if member is None:
            raise ValueError("sid is not connected to requested namespace")
        if room == sid or room is None:
            return
        space = self.spaces[namespace]
        if room in space.members:
            raise ValueError("cannot enter a sid room")
        limits = self.server.limits
        of_user = isinstance(room, str) and room.startswith(limits.user_room_prefix)
        if of_user and room not in member.rooms and len(space.within(room)) >= limits.tabs_per_user:
            self.server.eio.counters.drops["tabs_per_user"] += 1
            raise Refused("too many connections of one user", {"code": "rate_limited"})
        if space.enter(member, room):
            self._listen_to(namespace, room)

    def basic_leave_room(self, sid: str, namespace: str, room: Hashable) -> None:
        member = self.member(sid, namespace)
        if member is not None and self.spaces[namespace].leave(member, room):
            self._stop_listening_to(namespace, room)

    def basic_close_room(self, room: Hashable, namespace: str) -> None:
        if self.is_sid_room(namespace, room):
            raise ValueError("cannot close a sid room")
        for sid, _ in list(self.get_participants(namespace, room)):
            self.basic_leave_room(sid, namespace, room)

    def _listen_to(self, namespace: str, room: Hashable) -> None:
        if self.bus is not None and self.bus.subscribe(self.channels.of_room(namespace, room)):
            self.server.eio.counters.reconnects += 1

    def _stop_listening_to(self, namespace: str, room: Hashable) -> None:
        if self.bus is not None:
            self.bus.unsubscribe(self.channels.of_room(namespace, room))

    # -- questions -----------------------------------------------------------------------------------------------

    def member(self, sid: Any, namespace: str) -> Member | None:
        """The socket of this process with that id, whatever its state."""
        space = self.spaces.get(namespace)
        return space.members.get(sid) if space is not None else None

    @property
    def rooms(self) -> dict[str, dict[Hashable, dict[str, str]]]:
        """The stock manager's view of it: a copy."""
        return {
            namespace: {
                None: {sid: member.session.sid for sid, member in space.members.items()},
                **{room: dict(self.get_participants(namespace, room)) for room in space.rooms},
            }
            for namespace, space in self.spaces.items()
        }

    @rooms.setter
    def rooms(self, _nothing: dict[str, Any]) -> None:
        """The stock manager makes itself an empty one."""

    def get_namespaces(self) -> Iterable[str]:
        return self.spaces.keys()

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        space = self.spaces.get(namespace)
        for member in list(space.within(room)) if space is not None else ():
            yield member.sid, member.session.sid

    def get_rooms(self, sid: str, namespace: str) -> list[Hashable]:
        member = self.member(sid, namespace)
        return [sid, *member.rooms] if member is not None else []

    def is_sid_room(self, namespace: str, room: Hashable) -> bool:
        return self.member(room, namespace) is not None

    def is_pre_connected(self, sid: str, namespace: str) -> bool:
        member = self.member(sid, namespace)
        return member is not None and member.state == CONNECTING

    def is_connected(self, sid: str, namespace: str) -> bool:
        member = self.member(sid, namespace)
        return member is not None and member.state == CONNECTED

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> str | None:
        session = self.server.eio.sockets.get(eio_sid)
        member = session.member_in(namespace) if session is not None else None
        return member.sid if member is not None else None

    def eio_sid_from_sid(self, sid: str, namespace: str) -> str | None:
        member = self.member(sid, namespace)
        return member.session.sid if member is not None else None


def _without(members: Collection[Member], skip: Collection[str]) -> Collection[Member]:
    return [member for member in members if member.sid not in skip] if skip else members
