"""People in calls: pairs of tabs that ring, answer, talk and hang up, and come back when their instance has died."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import socketio

from tests.metering import grant
from tests.servers import Server, Tab, eventually, token_of

ANSWER_WITHIN_S = 30.0
TURNS_TO_SEND = 20
"""Of the event loop, until a request is written to its socket."""


class Lost(Exception):
    """The connection went before the answer came: nobody knows what became of the request."""


class Phone(Tab):
    """A tab that notices at once that its connection is gone."""

    def __init__(self, server: Server, user: str, **claims: Any) -> None:
        super().__init__(server, user, token_of(user, **claims))
        self.gone = asyncio.Event()
        self.client.on("disconnect", self._note_gone)

    async def _note_gone(self, _reason: str = "") -> None:
        self.gone.set()

    async def ask(self, event: str, payload: Any = None, timeout_s: float = ANSWER_WITHIN_S) -> dict[str, Any]:
        asking = asyncio.ensure_future(super().ask(event, payload, timeout_s))
        gone = asyncio.ensure_future(self.gone.wait())
        await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if asking.done():
            with contextlib.suppress(socketio.exceptions.SocketIOError):
                return asking.result()
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError, socketio.exceptions.SocketIOError):
            await asking
        raise Lost


@dataclass
class Person:
    user: str
    phone: Phone

    async def come_back(self, server: Server) -> None:
        """Connect to an instance that lives, as a browser's client does by itself."""
        if self.phone.gone.is_set() or not self.phone.client.connected:
            await self.phone.close()
            self.phone = Phone(server, self.user)
            await self.phone.connect()

    async def ask(self, event: str, payload: Any) -> dict[str, Any]:
        return await self.phone.ask(event, payload)


@dataclass
class Pair:
    caller: Person
    callee: Person
    request_id: str = field(default_factory=lambda: uuid4().hex)
    call_id: str = ""

    async def ring(self) -> None:
        """Repeatable: the request's id makes it one call."""
        started = await self.caller.ask("call:start", {"calleeId": self.callee.user, "requestId": self.request_id})
        assert started["ok"], started
        assert self.call_id in {"", started["call"]["id"]}, "the same request made two calls"
        self.call_id = started["call"]["id"]

    async def answer(self) -> None:
        """Repeatable: a tab that does not know whether it answered finds the call answered, and joins it."""
        accepted = await self.callee.ask("call:accept", {"callId": self.call_id})
        if not accepted["ok"] and accepted["error"]["code"] == "call_already_answered":
            accepted = await self.callee.ask("call:join", {"callId": self.call_id})
        if not accepted["ok"] and accepted["error"]["code"] == "unavailable":
            raise Lost
        assert accepted["ok"], accepted

    async def join(self) -> None:
        joined = await self.caller.ask("call:join", {"callId": self.call_id})
        assert joined["ok"], joined

    async def hang_up(self) -> None:
        """Repeatable."""
        ended = await self.caller.ask("call:end", {"callId": self.call_id})
        assert ended["ok"], ended
        assert ended["call"]["status"] == "ended"


@dataclass
class Crowd:
    pairs: list[Pair]
    tokens: int

    @property
    def people(self) -> list[Person]:
        return [person for pair in self.pairs for person in (pair.caller, pair.callee)]

    @property
    def call_ids(self) -> list[UUID]:
        return [UUID(pair.call_id) for pair in self.pairs if pair.call_id]

    async def each(self, step: Callable[[Pair], Awaitable[None]]) -> None:
        """Every pair at once; all must succeed."""
        await asyncio.gather(*(step(pair) for pair in self.pairs))

    async def talk(self) -> None:
        await self.each(Pair.ring)
        await self.each(Pair.answer)
        await self.each(Pair.join)

    async def through(self, step: Callable[[Pair], Awaitable[None]], fault: Callable[[], None]) -> int:
        """Every pair at once, with the fault as soon as half of them are through. Answers how many were cut short.

        The last of them ask just before it strikes: however late that half is noticed, some are on their way then.
        """
        last = max(1, len(self.pairs) // 4)
        under_way = {asyncio.ensure_future(step(pair)) for pair in self.pairs[:-last]}
        results: list[BaseException | None] = []
        struck = False
        while under_way:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            results += [task.exception() for task in done]
            if not struck and len(results) >= len(self.pairs) // 2:
                under_way |= {asyncio.ensure_future(step(pair)) for pair in self.pairs[-last:]}
                for _ in range(TURNS_TO_SEND):
                    await asyncio.sleep(0)
                fault()
                struck = True
        for error in results:
            if error is not None and not isinstance(error, Lost):
                raise error
        return sum(error is not None for error in results)

    async def come_back(self, servers: Sequence[Server]) -> None:
        """Whoever lost their connection gets another, spread over these instances."""
        await asyncio.gather(
            *(person.come_back(servers[number % len(servers)]) for number, person in enumerate(self.people))
        )

    async def leave(self) -> None:
        await asyncio.gather(*(person.phone.close() for person in self.people))


async def gather_crowd(
    conn: Any, size: int, servers: Iterable[tuple[Server, Server]], tokens: int, **claims: Any
) -> Crowd:
    """`size` pairs with a tab each; `servers` says in turn where a caller's and a callee's tab is."""
    seats = list(servers)
    pairs = []
    for number in range(size):
        name = uuid4().hex[:10]
        on, other = seats[number % len(seats)]
        caller, callee = f"caller-{name}", f"callee-{name}"
        await grant(conn, caller, tokens)
        pairs.append(Pair(Person(caller, Phone(on, caller, **claims)), Person(callee, Phone(other, callee, **claims))))
    crowd = Crowd(pairs, tokens)
    await asyncio.gather(*(person.phone.connect() for person in crowd.people))
    # The snapshot comes when the server counts the tab as there.
    await asyncio.gather(*(eventually(lambda one=person: one.phone.told("balance:update")) for person in crowd.people))
    return crowd
