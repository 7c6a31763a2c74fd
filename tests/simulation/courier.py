"""How the provider's events come: signed, late, early, twice at once, again until they are answered, and forged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from realtime.domain import errors
from realtime.edge.routes import ANONYMOUS, Answer, Asked
from tests.payments.stripe import signed
from tests.simulation.provider import Event
from tests.simulation.rules import Broken, Lost

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.process import Process

FORGED = 0.05


class Body:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._body


class Courier:
    def __init__(self, history: History) -> None:
        self._history = history

    async def deliver(self) -> None:
        """Until all is delivered and has come to rest."""
        random = self._history.random
        while True:
            await asyncio.sleep(random.expovariate(1.0) if not self._history.resting else 40.0)
            events = self._history.provider.events
            waiting = [event for event in events if not event.delivered]
            if self._history.resting:
                for event in waiting:
                    await self._send(event)
            elif events:
                event = random.choice(waiting or events) if random.random() < 0.8 else random.choice(events)
                if random.random() < FORGED:
                    await self._forge(event)
                copies = random.choice([1, 1, 1, 2])
                await asyncio.gather(*(self._send(event) for _ in range(copies)))

    async def _send(self, event: Event) -> None:
        answer = await self._post(event.body, signed(event.body, self._history.webhook_secret))
        if isinstance(answer, Answer):
            event.delivered = True
            self._history.books.check_event_is_kept(event)

    async def _forge(self, event: Event) -> None:
        """Somebody else signs it, or changes what was signed."""
        forged = event.body.replace(event.id.encode(), b"evt_forged_" + event.id.encode())
        headers = signed(forged, "whsec_guessed") if self._history.random.random() < 0.5 else signed(event.body)
        answer = await self._post(forged, headers)
        if answer is not None and not isinstance(answer, errors.SignatureInvalid):
            self._history.fail(Broken(f"a forged event was answered {answer}"))

    async def _post(self, body: bytes, headers: dict[str, str]) -> Any:
        """What the webhook's route answers; None if the process dies before it does."""
        process: Process = await self._history.some_process()
        request: Any = SimpleNamespace(content=Body(body), headers=headers)
        try:
            return await self._history.ask(process, process.webhook(Asked(request, ANONYMOUS, None)))
        except Lost:
            return None
