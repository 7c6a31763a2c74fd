"""Socket.IO events: each is parsed, handed to its service and answered; the table at the end lists them all."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import socketio
import structlog
from redis.exceptions import RedisError

from realtime.adapters.metrics import Metrics
from realtime.adapters.tracing import Tracing
from realtime.domain.errors import Forbidden, InvalidPayload, Unauthenticated, Unavailable
from realtime.domain.trust import Identity, UserRole
from realtime.edge import events, wire
from realtime.edge.authentication import Authenticator
from realtime.edge.errors import as_refused, socket_answer
from realtime.edge.snapshots import Snapshots
from realtime.services import pushes
from realtime.services.attendance import Attendance
from realtime.services.calls import Answered, Calls
from realtime.services.operations import OVERVIEW_EVERY_S, Operations
from realtime.services.wallets import Wallets

log = structlog.get_logger()


@dataclass(slots=True)
class Tab:
    """One connected socket and who it belongs to."""

    sid: str
    identity: Identity
    session_id: str | None = None
    """The browser session it was opened with, if by cookie."""

    @property
    def user_id(self) -> str:
        return self.identity.user_id


LEFT_BY_ITSELF = "client disconnect"
REFUSED_AFTER_ALL = "server disconnect"
LOST_FOR_S = 60.0
LOST_KEPT = 20_000


class RecentlyLost:
    """Which users lost a tab here in the last minute without having closed it: their next tab is a reconnection."""

    def __init__(self) -> None:
        self._at: OrderedDict[str, float] = OrderedDict()

    def note(self, user_id: str) -> None:
        self._at[user_id] = time.monotonic()
        self._at.move_to_end(user_id)
        if len(self._at) > LOST_KEPT:
            self._at.popitem(last=False)

    def back(self, user_id: str) -> bool:
        at = self._at.pop(user_id, None)
        return at is not None and time.monotonic() - at < LOST_FOR_S


class Watchers:
    """The admins' tabs here that watch the overview, and the loop that tells them, which runs while there are any."""

    def __init__(self, operations: Operations, sio: Any) -> None:
        self._operations = operations
        self._sio = sio
        self._sids: set[str] = set()
        self._telling: asyncio.Task[None] | None = None

    def add(self, sid: str) -> None:
        self._sids.add(sid)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell(), name="ops watchers")

    def remove(self, sid: str) -> None:
        self._sids.discard(sid)

    async def _tell(self) -> None:
        try:
            while self._sids:
                try:
                    overview = await self._operations.overview()
                except Exception as error:
                    if as_refused(error) is None:
                        log.exception("the overview failed")
                else:
                    for sid in list(self._sids):
                        await self._sio.emit("ops:update", overview, to=sid)
                await asyncio.sleep(OVERVIEW_EVERY_S)
        finally:
            self._telling = None


class Sockets:
    def __init__(
        self,
        sio: Any,
        *,
        authenticator: Authenticator,
        calls: Calls,
        wallets: Wallets,
        attendance: Attendance,
        operations: Operations,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._sio = sio
        self._authenticator = authenticator
        self._calls = calls
        self._wallets = wallets
        self._attendance = attendance
        self._operations = operations
        self._metrics = metrics
        self._tracing = tracing
        self._lost = RecentlyLost()
        self._watchers = Watchers(operations, sio)
        self._snapshots = Snapshots(sio, wallets, calls)
        self._tabs: dict[str, Tab] = {}
        self.draining = False
        sio.on("connect", self._connect)
        sio.on("disconnect", self._disconnect)
        for name in EVENTS:
            sio.on(name, self._listener(name))

    # -- coming and going ----------------------------------------------------------------------------------------

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        if sid in self._tabs:
            return  # an event that a client named so, which would count its tab twice
        if self.draining:
            raise socketio.exceptions.ConnectionRefusedError("the server is stopping", {"code": "unavailable"})
        try:
            identity, session = await self._authenticator.of_handshake(sid, environ, auth)
            tab = Tab(sid, identity, session.id if session else None)
        except Exception as error:
            answer = socket_answer(error)["error"]
            self._metrics.connects.labels(answer["code"]).inc()
            raise socketio.exceptions.ConnectionRefusedError(answer["message"], answer) from None
        try:
            await self._sio.enter_room(sid, pushes.user_room(tab.user_id))
        except socketio.exceptions.ConnectionRefusedError as refused:  # one more than a user may have
            self._metrics.connects.labels(refused.error_args["data"]["code"]).inc()
            await self._detach(tab)
            raise
        self._tabs[sid] = tab
        self._metrics.connects.labels("ok").inc()
        if self._lost.back(tab.user_id):
            self._metrics.reconnects.inc()
        self._sio.set_expiry(sid, tab.identity.expires_at_s)
        try:
            await self._attendance.arrived(tab.user_id)
            # The snapshot is the first thing the tab hears. The room was entered before it is read: what changes in
            # between is held back until then, and follows as a push with a newer version.
            await self._snapshots.greet(sid, tab.user_id)
        except Exception:
            # The tab is refused, and one that was refused has no end of its own: its user would be online for ever.
            await self._disconnect(sid, REFUSED_AFTER_ALL)
            raise

    async def _disconnect(self, sid: str, reason: str = "") -> None:
        tab = self._tabs.pop(sid, None)
        if tab is None:
            return
        self._watchers.remove(sid)
        self._snapshots.forget(sid)
        self._metrics.socket_gone(reason)
        if reason != LEFT_BY_ITSELF:
            self._lost.note(tab.user_id)
        await self._attendance.left(tab.user_id)
        await self._detach(tab)

    async def _detach(self, tab: Tab) -> None:
        if tab.session_id is not None:
            with suppress(RedisError):
                await self._authenticator.sessions.detach(tab.session_id, tab.sid)

    async def send_snapshots(self) -> None:
        """Tell every tab here where its user stands: pushes may have been missed."""
        await self._snapshots.tell_all({tab.sid: tab.user_id for tab in self._tabs.values()})

    async def drain(self) -> None:
        """No new connections or calls; the tabs lose their connection and come back elsewhere by themselves.

        They are not disconnected by a packet of Socket.IO's: official clients take that for a wish and stay away.
        """
        self.draining = True
        self._snapshots.stop()
        await self._sio.drain()

    # -- events --------------------------------------------------------------------------------------------------

    def _listener(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        event = EVENTS[name]

        async def listen(sid: str, *data: Any) -> dict[str, Any]:
            started = time.perf_counter()
            structlog.contextvars.clear_contextvars()
            with self._tracing.request(f"socket {name}", {}, {"callmeter.event": name}):
                answer = await self._acknowledge(name, event, sid, data)
            outcome = "ok" if answer["ok"] else answer["error"]["code"]
            self._metrics.socket_event(name, outcome, time.perf_counter() - started)
            return answer

        return listen

    async def _acknowledge(self, name: str, event: SocketEvent, sid: str, data: tuple[Any, ...]) -> dict[str, Any]:
        try:
            tab = self._tabs.get(sid)
            if tab is None or (not tab.identity.holds_at(time.time()) and name != "auth:renew"):
                raise Unauthenticated("the token has expired")
            structlog.contextvars.bind_contextvars(user_id=tab.user_id)
            if len(data) > 1:
                raise InvalidPayload("one object is expected")
            payload = wire.parse(event.payload, data[0] if data else {})
            if isinstance(payload, wire.OfCall):
                structlog.contextvars.bind_contextvars(call_id=str(payload.callId))
            return {"ok": True} | await event.handle(self, tab, payload)
        except Exception as error:
            return socket_answer(error)

    async def _start(self, tab: Tab, payload: wire.StartCall) -> dict[str, Any]:
        if self.draining:
            raise Unavailable("the server is stopping; connect again")
        call = await self._calls.start(tab.identity, payload.calleeId, payload.requestId)
        return {"call": pushes.call_payload(call)}

    async def _accept(self, tab: Tab, payload: wire.OfCall) -> dict[str, Any]:
        return await self._into_call(tab, await self._calls.accept(tab.user_id, payload.callId, tab.sid))

    async def _join(self, tab: Tab, payload: wire.OfCall) -> dict[str, Any]:
        return await self._into_call(tab, await self._calls.join(tab.user_id, payload.callId))

    async def _decline(self, tab: Tab, payload: wire.OfCall) -> dict[str, Any]:
        return {"call": pushes.call_payload(await self._calls.decline(tab.user_id, payload.callId))}

    async def _cancel(self, tab: Tab, payload: wire.OfCall) -> dict[str, Any]:
        return {"call": pushes.call_payload(await self._calls.cancel(tab.user_id, payload.callId))}

    async def _end(self, tab: Tab, payload: wire.OfCall) -> dict[str, Any]:
        return {"call": pushes.call_payload(await self._calls.end(tab.user_id, payload.callId))}

    async def _renew(self, tab: Tab, payload: wire.OfCall) -> dict[str, Any]:
        return {"agora": await self._calls.renew(tab.user_id, payload.callId)}

    async def _balance(self, tab: Tab, _payload: wire.Nothing) -> dict[str, Any]:
        wallet = await self._wallets.wallet_of(tab.user_id)
        return {"balance": wallet.balance_tokens, "version": wallet.version}

    async def _renew_auth(self, tab: Tab, payload: wire.RenewAuth) -> dict[str, Any]:
        identity = await self._authenticator.of_token(payload.token)
        if identity.user_id != tab.user_id:
            raise Unauthenticated("the token is another user's")
        tab.identity = identity
        if identity.role is not UserRole.ADMIN:
            self._watchers.remove(tab.sid)
        self._sio.set_expiry(tab.sid, identity.expires_at_s)
        return {"expiresAt": pushes.iso(datetime.fromtimestamp(identity.expires_at_s, UTC))}

    async def _watch(self, tab: Tab, _payload: wire.Nothing) -> dict[str, Any]:
        if tab.identity.role is not UserRole.ADMIN:
            raise Forbidden("this needs the role admin")
        self._watchers.add(tab.sid)
        return {}

    async def _unwatch(self, tab: Tab, _payload: wire.Nothing) -> dict[str, Any]:
        self._watchers.remove(tab.sid)
        return {}

    async def _into_call(self, tab: Tab, answered: Answered) -> dict[str, Any]:
        call = answered.call
        room = pushes.call_room(call, call.role_of(tab.user_id))
        for earlier in self._sio.rooms(tab.sid):
            # Of calls that are over by now: a tab that is open all day would be in one room more with each.
            if pushes.is_call_room(earlier) and earlier != room:
                await self._sio.leave_room(tab.sid, earlier)
        await self._sio.enter_room(tab.sid, room)
        return {"call": pushes.call_payload(call), "agora": answered.agora}


class SocketEvent(NamedTuple):
    payload: type[wire.Payload]
    answer: type[events.Acknowledged]
    handle: Callable[[Sockets, Tab, Any], Awaitable[dict[str, Any]]]
    summary: str


EVENTS: Mapping[str, SocketEvent] = {
    "call:start": SocketEvent(wire.StartCall, events.CallAcknowledged, Sockets._start, "Ring another user."),
    "call:accept": SocketEvent(wire.OfCall, events.InCallAcknowledged, Sockets._accept, "Answer; the first tab wins."),
    "call:join": SocketEvent(
        wire.OfCall, events.InCallAcknowledged, Sockets._join, "Come into an answered call, or take it over."
    ),
    "call:decline": SocketEvent(wire.OfCall, events.CallAcknowledged, Sockets._decline, "Refuse a call that rings."),
    "call:cancel": SocketEvent(wire.OfCall, events.CallAcknowledged, Sockets._cancel, "Stop ringing."),
    "call:end": SocketEvent(wire.OfCall, events.CallAcknowledged, Sockets._end, "Hang up."),
    "call:renew": SocketEvent(
        wire.OfCall, events.AgoraAcknowledged, Sockets._renew, "A fresh video token while paid up."
    ),
    "balance:get": SocketEvent(
        wire.Nothing, events.BalanceAcknowledged, Sockets._balance, "The wallet's balance and version."
    ),
    "auth:renew": SocketEvent(
        wire.RenewAuth, events.RenewedAcknowledged, Sockets._renew_auth, "Go on with a new token of the same user."
    ),
    "ops:watch": SocketEvent(
        wire.Nothing, events.Acknowledged, Sockets._watch, "Have the operator's overview pushed; role admin."
    ),
    "ops:unwatch": SocketEvent(wire.Nothing, events.Acknowledged, Sockets._unwatch, "Have it pushed no longer."),
}
