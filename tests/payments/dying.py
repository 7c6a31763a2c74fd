"""`python -m realtime`, killed as by `kill -9` when the DIE_NTH purchase or refund reaches the point DIE_AT."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from realtime.__main__ import main
from realtime.adapters.stripe_gateway import StripeGateway
from realtime.services.news import News
from realtime.services.payments import Payments
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.refunds import Refunds
from tests.payments.hasty import hasten

IN_FLIGHT_S = 0.004

Wrap = Callable[[], None]
_arrivals = itertools.count(1)


def _die_if_it_is_time() -> None:
    if next(_arrivals) == int(os.environ["DIE_NTH"]):
        os.kill(os.getpid(), signal.SIGKILL)


def _after(owner: type, name: str) -> None:
    """Die when the method has done its work and before its caller learns of it."""
    method = getattr(owner, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        result = await method(*args, **kwargs)
        _die_if_it_is_time()
        return result

    setattr(owner, name, dying)


def _during(owner: type, name: str) -> None:
    """Die while the request is on its way, or its answer."""
    method = getattr(owner, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        going = asyncio.create_task(method(*args, **kwargs))
        await asyncio.sleep(IN_FLIGHT_S)
        _die_if_it_is_time()
        return await going

    setattr(owner, name, dying)


def _before_telling() -> None:
    """Die when the outcome has been committed and nobody has been told."""
    tell = News.tell

    async def dying(self: News, *args: Any) -> None:
        if any(event == "purchase succeeded" for event, _ in self.lines):
            _die_if_it_is_time()
        await tell(self, *args)

    News.tell = dying  # type: ignore[method-assign]


POINTS: dict[str, Callable[[], None]] = {
    "claimed": lambda: _after(Payments, "_begin"),
    "making the payment": lambda: _during(StripeGateway, "create"),
    "payment made": lambda: _after(StripeGateway, "create"),
    "prepared": lambda: _after(PurchaseRecords, "name_payment"),
    "confirming": lambda: _during(StripeGateway, "confirm"),
    "confirmed": lambda: _after(StripeGateway, "confirm"),
    "recorded, nobody told": _before_telling,
    "told, not answered": lambda: _after(Payments, "_carry_out"),
    "refund ordered": lambda: _after(Refunds, "_order"),
    "refund made": lambda: _after(StripeGateway, "refund"),
    "refund booked": lambda: _after(Refunds, "_book"),
}
OF_PURCHASES = [point for point in POINTS if not point.startswith("refund")]
OF_REFUNDS = [point for point in POINTS if point.startswith("refund")]

if __name__ == "__main__":
    hasten()
    POINTS[os.environ["DIE_AT"]]()
    sys.exit(main())
