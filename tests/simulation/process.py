"""One of our processes: the real services on modelled servers, and the loops beside its requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from realtime.adapters.calls_store import PutOutJob
from realtime.adapters.postgres import UNREACHABLE
from realtime.edge.webhooks import stripe_routes
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls, Unobserved
from realtime.services.charging import Charging
from realtime.services.idempotency import Idempotency
from realtime.services.metering import Meter
from realtime.services.money_limits import MoneyLimits
from realtime.services.payments import Payments
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.purchase_recovery import PurchaseRecovery
from realtime.services.refunds import Refunds
from realtime.services.stripe_events import StripeEvents
from tests.simulation import queries, vendors
from tests.simulation.database import Transactions
from tests.simulation.rules import AWAY_S, DAILY_LIMIT_CENTS, METER_EVERY_S, SWEEP_EVERY_S

if TYPE_CHECKING:
    from tests.simulation.history import History

QUERIES = queries.by_text()
PUT_OUT = PutOutJob("jobs", "put_out")


class Unwatched:
    def purchase(self, outcome: str) -> None: ...

    def stripe_event(self, outcome: str) -> None: ...


class Process:
    """One of ours: everything it is made of, and its loops."""

    def __init__(self, history: History, name: str) -> None:
        self.name = name
        self.alive = True
        self.died_at: float | None = None
        self.died: asyncio.Future[None] = history.loop.create_future()
        self._history = history
        self.db = Transactions(history.db, QUERIES, history, owner=self)
        db: Any = self.db
        self.presence = vendors.Presence(history, self)
        presence: Any = self.presence
        limiter: Any = vendors.Limiter(history, self)
        out, issuer, gateway = vendors.Out(history, self), vendors.Issuer(), vendors.Gateway(history, self)
        self.calls = Calls(
            db=db, presence=presence, limiter=limiter, issuer=issuer, out=out, put_out=PUT_OUT,
            settings=history.settings,
        )  # fmt: skip
        self.meter = Meter(db=db, calls=self.calls, issuer=issuer, out=out, put_out=PUT_OUT,
                           observer=Unobserved())  # fmt: skip
        self.attendance = Attendance(db=db, presence=presence, calls=self.calls, reconnect_grace_s=AWAY_S)
        limits = MoneyLimits(limiter, per_minute=1000, daily_cents=DAILY_LIMIT_CENTS)
        self.records = PurchaseRecords(db=db, limits=limits, out=out, observer=Unwatched())
        charging = Charging(gateway, self.records)  # type: ignore[arg-type]
        self.payments = Payments(
            db=db, charging=charging, records=self.records, limits=limits, idempotency=Idempotency(db),
            tokens_per_usd=100,
        )  # fmt: skip
        money: Any = gateway
        self.recovery = PurchaseRecovery(db=db, gateway=money, charging=charging, records=self.records)
        self.refunds = Refunds(db=db, gateway=money, limits=limits, idempotency=Idempotency(db), out=out)
        self.events = StripeEvents(db=db, gateway=money, records=self.records, out=out, observer=Unwatched())
        [webhook] = stripe_routes(history.settings, self.events)
        self.webhook = webhook.handle

    def start(self) -> None:
        self._history.spawn(self._every(METER_EVERY_S, self.meter.round))
        self._history.spawn(self._every(SWEEP_EVERY_S, self.attendance.sweep))

    async def _every(self, pause_s: float, step: Any) -> None:
        while self.alive and not self._history.resting:
            try:
                await step()
            except (*UNREACHABLE, RedisError):
                pass
            except Exception as error:
                self._history.fail(error)
            await asyncio.sleep(pause_s)

    def die(self) -> None:
        self.alive = False
        self.died_at = asyncio.get_running_loop().time()
        self.db.break_off()
        self.died.set_result(None)
