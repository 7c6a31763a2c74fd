"""Socket.IO events: each is parsed, handed to its service and answered; the table at the end lists them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import socketio
import structlog
from redis.exceptions import RedisError

from realtime.domain.errors import InvalidPayload, Unauthenticated, Unavailable
from realtime.domain.transitions import Status
from realtime.domain.trust import Identity
from realtime.edge import events, wire
from realtime.edge.authentication import Authenticator, still_valid
from realtime.edge.errors import as_refused, socket_answer
from realtime.services import pushes
from realtime.services.attendance import Attendance
from realtime.services.calls import Answered, Calls
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


class Sockets:
    def __init__(
        self,
        sio: Any,
        *,
        authenticator: Authenticator,
        calls: Calls,
        wallets: Wallets,
        attendance: Attendance,
    ) -> None:
        self._sio = sio
        self._authenticator = authenticator
        self._calls = calls
        self._wallets = wallets
        self._attendance = attendance
        self._tabs: dict[str, Tab] = {}
        self.draining = False
        sio.on("connect", self._connect)
        sio.on("disconnect", self._disconnect)
        for name in EVENTS:
            sio.on(name, self._listener(name))

    # -- coming and going ----------------------------------------------------------------------------------------

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        if self.draining:
            raise socketio.exceptions.ConnectionRefusedError("the server is stopping", {"code": "unavailable"})
        try:
            identity, session = await self._authenticator.of_handshake(sid, environ, auth)
            tab = Tab(sid, identity, session.id if session else None)
        except Exception as error:
            answer = socket_answer(error)["error"]
            raise socketio.exceptions.ConnectionRefusedError(answer["message"], answer) from None
        self._tabs[sid] = tab
        await self._sio.enter_room(sid, pushes.user_room(tab.user_id))
        self._sio.set_expiry(sid, tab.identity.expires_at_s)
        await self._attendance.arrived(tab.user_id)
        # The snapshot follows the acknowledgement of the connection, and the room was entered before it is read: what
        # changes in between comes as a push with a newer version.
        self._sio.start_background_task(self.send_snapshot, sid)

    async def _disconnect(self, sid: str, *_reason: Any) -> None:
        tab = self._tabs.pop(sid, None)
        if tab is None:
            return
        await self._attendance.left(tab.user_id)
        if tab.session_id is not None:
            with suppress(RedisError):
                await self._authenticator.sessions.detach(tab.session_id, sid)

    async def send_snapshot(self, sid: str) -> None:
        """Tell one tab where its user stands: the balance, and the call that is going on."""
        tab = self._tabs.get(sid)
        if tab is None:
            return
        try:
            wallet = await self._wallets.wallet_of(tab.user_id)
            call = await self._calls.live_of(tab.user_id)
        except Exception as error:
            if as_refused(error) is None:
                log.exception("a snapshot failed")
            return
        data = pushes.balance_data(wallet, delta=0, reason="snapshot", query_key=pushes.WALLET_KEY)
        await self._sio.emit("balance:update", data, to=sid)
        if call is not None and call.status is Status.RINGING:
            await self._sio.emit("call:incoming", {"call": pushes.call_payload(call)}, to=sid)
        elif call is not None:
            payload = {"call": pushes.call_payload(call), "answeredBy": call.answered_by}
            await self._sio.emit("call:accepted", payload, to=sid)

    async def send_snapshots(self) -> None:
        """Tell every tab here where its user stands: pushes may have been missed."""
        for sid in list(self._tabs):
            await self.send_snapshot(sid)

    async def drain(self) -> None:
        """No new connections or calls; the tabs are let go, and reconnect elsewhere."""
        self.draining = True
        for sid in list(self._tabs):
            await self._sio.disconnect(sid)

    # -- events --------------------------------------------------------------------------------------------------

    def _listener(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        event = EVENTS[name]

        async def listen(sid: str, *data: Any) -> dict[str, Any]:
            try:
                tab = self._tabs.get(sid)
                if tab is None or (not still_valid(tab.identity) and name != "auth:renew"):
                    raise Unauthenticated("the token has expired")
                if len(data) > 1:
                    raise InvalidPayload("one object is expected")
                payload = wire.parse(event.payload, data[0] if data else {})
                return {"ok": True} | await event.handle(self, tab, payload)
            except Exception as error:
                return socket_answer(error)

        return listen

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
        self._sio.set_expiry(tab.sid, identity.expires_at_s)
        return {"expiresAt": pushes.iso(datetime.fromtimestamp(identity.expires_at_s, UTC))}

    async def _into_call(self, tab: Tab, answered: Answered) -> dict[str, Any]:
        call = answered.call
        await self._sio.enter_room(tab.sid, pushes.call_room(call, call.role_of(tab.user_id)))
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
}
