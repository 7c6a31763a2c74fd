"""The model of the database against PostgreSQL: the same services do the same on both, and the rows agree.

The steps are of a seed. The clock of metering is set to the same moments on both. Purchases live by PostgreSQL's own
clock, so there time goes by as far as it matters: what was due in an hour is made due.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

import pytest

from realtime.adapters import calls_store
from realtime.adapters.postgres import open_pool
from realtime.adapters.transactions import Database as PostgreSQL
from realtime.domain import errors
from realtime.domain.call import Call
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.services.attendance import Attendance
from realtime.services.calls import Calls
from realtime.services.charging import Charging
from realtime.services.idempotency import Idempotency
from realtime.services.metering import Meter
from realtime.services.money_limits import MoneyLimits, Operation
from realtime.services.payments import Order, Payments
from realtime.services.purchase_records import PurchaseRecords
from realtime.services.purchase_recovery import PurchaseRecovery
from realtime.services.refunds import Refunds
from realtime.services.stripe_events import StripeEvents
from tests.metering import Heard, grant, set_clock
from tests.simulation import queries, vendors
from tests.simulation.database import START, Database, NoFaults, Row, Transactions
from tests.simulation.history import silence
from tests.simulation.process import Unwatched
from tests.simulation.provider import CARDS, INQUIRY, OPEN, Provider
from tests.simulation.rules import ADMINS, AWAY_S, SETTINGS, USERS

STEPS = 350
SEEDS = 3


class Model(Database):
    """Its clock stands where it was set."""

    at = START

    def clock(self) -> datetime:
        return self.at


class Stage:
    """The services on one of the two, and nothing else that differs."""

    def __init__(self, name: str, db: Any, seed: int, rounding: str) -> None:
        self.name = name
        self.db = db
        self.ids = random.Random(seed)
        self.heard = Heard()
        self.online = set(USERS)
        scene: Any = SimpleNamespace(hop=self._at_once, chance=lambda _p: False, note=lambda _l: None,
                                     books=SimpleNamespace(check_charges=lambda _p: None),
                                     random=random.Random(seed))  # fmt: skip
        scene.provider = self.provider = Provider(scene)
        nobody: Any = None
        presence: Any = SimpleNamespace(online=self._online, here=lambda _users: set())
        limiter: Any = vendors.Limiter(scene, nobody)
        issuer, gateway = vendors.Issuer(), vendors.Gateway(scene, nobody)
        self.calls = Calls(db=db, presence=presence, limiter=limiter, issuer=issuer, out=self.heard,
                           put_out=None, settings=SETTINGS[rounding])  # fmt: skip
        self.meter = Meter(db=db, calls=self.calls, issuer=issuer, out=self.heard, put_out=None)
        self.attendance = Attendance(db=db, presence=presence, calls=self.calls, reconnect_grace_s=AWAY_S)
        limits = MoneyLimits(limiter, per_minute=1000, daily_cents=5_000)
        self.records = PurchaseRecords(db=db, limits=limits, out=self.heard, observer=Unwatched())
        charging = Charging(gateway, self.records)  # type: ignore[arg-type]
        self.payments = Payments(db=db, charging=charging, records=self.records, limits=limits,
                                 idempotency=Idempotency(db), tokens_per_usd=100)  # fmt: skip
        money: Any = gateway
        self.recovery = PurchaseRecovery(db=db, gateway=money, charging=charging, records=self.records)
        self.refunds = Refunds(db=db, gateway=money, limits=limits, idempotency=Idempotency(db), out=self.heard)
        self.events = StripeEvents(db=db, gateway=money, records=self.records, out=self.heard, observer=Unwatched())

    async def _at_once(self, *_: Any) -> None: ...

    async def _online(self, users: list[str]) -> set[str]:
        return self.online & set(users)

    async def step(self, what: str, *arguments: Any) -> Any:
        """What came of it, as far as both can agree on it."""
        try:
            with (
                mock.patch("realtime.services.calls.new_id", self._new_id),
                mock.patch("realtime.services.payments.new_id", self._new_id),
            ):
                return await getattr(self, what)(*arguments)
        except errors.Refused as refused:
            return refused.code, {name: value for name, value in refused.details.items() if name != "resetsAt"}

    def _new_id(self) -> UUID:
        return UUID(int=self.ids.getrandbits(128))

    # -- steps ---------------------------------------------------------------------------------------------------

    async def start(self, caller: str, callee: str, request_id: str) -> Any:
        return await self.calls.start(Identity(caller, Trust.VIP, UserRole.USER, 2**33), callee, request_id)

    async def event(self, kind: str, user: str, call_id: UUID) -> Any:
        if kind == "accept":
            return (await self.calls.accept(user, call_id, "tab")).call
        return await getattr(self.calls, kind)(user, call_id)

    async def by_itself(self, kind: str, call_id: UUID) -> Any:
        return await getattr(self.calls, kind)(call_id)

    async def metered(self) -> Any:
        return await self.meter.round()

    async def swept(self, online: set[str]) -> None:
        self.online = online
        await self.attendance.sweep()
        self.online = set(USERS)

    async def asked(self) -> Any:
        async with self.db.connection() as conn:
            return (
                await calls_store.live_of(conn, USERS),
                await calls_store.absences(conn, 2), await calls_store.overdue_absences(conn, 0, 2),
                await calls_store.due(conn, 2), await calls_store.overdue_rings(conn, 2),
            )  # fmt: skip

    async def bought(self, user: str, key: str, order: Order) -> Any:
        return (await self.payments.buy(Operation(user, key, 86_400), order)).outcome

    async def refunded(self, admin: str, key: str, number: int) -> Any:
        """One of the newest payments that were charged, if there is one."""
        for one in self.provider.paid()[-number:][:1]:
            return (await self.refunds.refund(Operation(admin, key, 86_400), one.purchase_id)).outcome
        return None

    async def taken_back(self, kind: str, number: int) -> None:
        """By hand, or by the buyer's bank."""
        for one in self.provider.paid()[-number:][:1]:
            if kind == "by hand":
                self.provider.pay_back_by_hand(one.payment.id, one.payment.amount_cents // 2)
            elif kind in {OPEN, INQUIRY}:
                self.provider.dispute(one.payment.id, one.payment.amount_cents, kind)
            else:
                for dispute in one.disputes:
                    if dispute.status in {OPEN, INQUIRY}:
                        self.provider.move_dispute(one.payment.id, dispute, kind)

    async def told(self, number: int, count: int) -> Any:
        """Some of the newest events, in whatever order and however often they came."""
        return [await self.events.receive(event.body) for event in self.provider.events[-number:][:count]]

    async def looked_after(self) -> None:
        await self.recovery.check_due()
        await self.refunds.check_due()
        await self.events.apply_pending()

    async def provider_moves(self, success: bool) -> None:
        for payment_id in list(self.provider.intents):
            self.provider.settle(payment_id)
            self.provider.authenticate(payment_id, success=success)


class Real(Stage):
    async def set_clock(self, at: datetime) -> None:
        async with self.db.connection() as conn:
            await set_clock(conn, at)

    async def let_an_hour_pass(self) -> None:
        async with self.db.connection() as conn:
            await conn.execute(
                "UPDATE purchases SET next_check_at = next_check_at - interval '1 hour',"
                " created_at = created_at - interval '1 hour'"
            )
            await conn.execute("UPDATE idempotency_keys SET held_until = held_until - interval '1 hour'")
            await conn.execute("UPDATE refund_orders SET next_check_at = next_check_at - interval '1 hour'")
            await conn.execute("UPDATE stripe_events SET received_at = received_at - interval '1 hour'")

    async def books(self) -> dict[str, Any]:
        async with self.db.connection() as conn:
            return {
                "calls": [dict(row) for row in await conn.fetch("SELECT * FROM calls")],
                "accounts": [dict(row) for row in await conn.fetch(
                    "SELECT owner_id, kind, balance, version FROM accounts")],
                "journals": [row[0] for row in await conn.fetch("SELECT idempotency_key FROM journals")],
                "purchases": [dict(row) for row in await conn.fetch("SELECT * FROM purchases")],
                "keys": [dict(row) for row in await conn.fetch("SELECT * FROM idempotency_keys")],
                "spend": [dict(row) for row in await conn.fetch("SELECT user_id, spent_cents FROM daily_spend")],
                "live": [dict(row) for row in await conn.fetch("SELECT user_id, call_id FROM live_parties")],
                "orders": [dict(row) for row in await conn.fetch("SELECT * FROM refund_orders")],
                "disputes": [dict(row) for row in await conn.fetch("SELECT * FROM disputes")],
                "events": [dict(row) for row in await conn.fetch("SELECT * FROM stripe_events")],
            }  # fmt: skip


class Modelled(Stage):
    model: Model

    async def set_clock(self, at: datetime) -> None:
        self.model.at = at

    async def let_an_hour_pass(self) -> None:
        hour = timedelta(hours=1)
        for row in self.model.table("purchases").values():
            row |= {"next_check_at": row["next_check_at"] - hour, "created_at": row["created_at"] - hour}
        for row in self.model.table("keys").values():
            row |= {"held_until": row["held_until"] - hour}
        for row in self.model.table("refund_orders").values():
            row |= {"next_check_at": row["next_check_at"] - hour}
        for row in self.model.table("events").values():
            row |= {"received_at": row["received_at"] - hour}

    async def books(self) -> dict[str, Any]:
        model = self.model
        return {
            "calls": list(model.table("calls").values()),
            "accounts": list(model.table("accounts").values()),
            "journals": list(model.table("journals")),
            "purchases": list(model.table("purchases").values()),
            "keys": [row | {"user_id": user, "key": key} for (user, key), row in model.table("keys").items()],
            "spend": [row | {"user_id": user} for (user, _), row in model.table("spend").items()],
            "live": list(model.table("live").values()),
            "orders": list(model.table("refund_orders").values()),
            "disputes": list(model.table("disputes").values()),
            "events": list(model.table("events").values()),
        }


def comparable(books: dict[str, Any]) -> dict[str, Any]:
    """In one order, and without what each names or times for itself."""

    def rows(name: str, by: tuple[str, ...], but: tuple[str, ...] = ()) -> list[Row]:
        kept = [{key: value for key, value in row.items() if key not in but} for row in books[name]]
        return sorted(kept, key=lambda row: [str(row[key]) for key in by])

    absent = [
        row | {side: row[side] is not None for side in ("caller_absent_since", "callee_absent_since")}
        for row in books["calls"]
    ]
    made_by_each = ("caller_wallet_id", "callee_earnings_id")
    return {
        "calls": rows("calls", ("id",), made_by_each) if (books := books | {"calls": absent}) else [],
        "accounts": [row for row in rows("accounts", ("owner_id", "kind"), ("id",)) if row["version"]],
        "journals": sorted(books["journals"]),
        "purchases": rows("purchases", ("id",), ("created_at", "finished_at", "next_check_at", "spend_day")),
        "keys": rows("keys", ("user_id", "key"), ("holder", "held_until", "created_at", "expires_at")),
        "spend": rows("spend", ("user_id",)),
        "live": rows("live", ("user_id",)),
        "orders": rows("orders", ("purchase_id",), ("created_at", "next_check_at")),
        "disputes": rows("disputes", ("id",), ("changed_at",)),
        "events": rows("events", ("id",), ("received_at", "applied_at")),
    }


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Any]:
    pool = await open_pool(database_url, max_size=4)
    with silence():
        yield pool
    await pool.close()


def steps_of(seed: int, made: list[Call]) -> Any:
    """What happens, one after the other; `made` holds the calls there are by then."""
    rng = random.Random(seed)
    for number in range(STEPS):
        user, other = rng.sample(USERS, 2)
        kind = rng.choices(
            (
                "start",
                "event",
                "by_itself",
                "metered",
                "clock",
                "swept",
                "asked",
                "bought",
                "told",
                "hour",
                "moves",
                "refunded",
                "taken back",
            ),
            (8, 12, 1, 6, 12, 1, 1, 5, 4, 1, 2, 2, 3),
        )[0]
        match kind:
            case "start":
                yield "start", user, other, f"{user}-{rng.randrange(number + 1)}"
            case "event" if made:
                event = rng.choices(("accept", "end", "decline", "cancel", "join"), (12, 1, 1, 1, 3))[0]
                call = rng.choice(made[-2:])
                yield "event", event, rng.choice((call.callee_id, call.callee_id, user)), call.id
            case "by_itself" if made:
                yield "by_itself", rng.choice(("expire", "expire", "expire", "vanish")), rng.choice(made[-3:]).id
            case "metered" | "asked":
                yield (kind,)
            case "clock":
                yield "clock", rng.choices([1, 2, 6.999, 7, 13, 30, -3], (12, 12, 8, 8, 1, 1, 2))[0]
            case "swept":
                yield "swept", set(rng.sample(USERS, rng.choice((2, 3, 3))))
            case "bought":
                order = Order(rng.choice([1, 100, 900]), rng.choices(CARDS, (4, 1, 1, 1, 1))[0])
                yield "bought", user, f"key-{rng.randrange(12)}", order
            case "told":
                yield "told", rng.randrange(1, 9), rng.randrange(1, 5)
            case "refunded":
                yield "refunded", rng.choice(ADMINS), f"refund-{rng.randrange(8)}", rng.randrange(1, 4)
            case "taken back":
                kind = rng.choices(("by hand", OPEN, INQUIRY, "won", "lost", "warning_closed"), (1, 2, 1, 2, 1, 1))[0]
                yield "taken_back", kind, rng.randrange(1, 4)
            case "hour":
                yield ("hour",)
            case "moves":
                yield "provider_moves", rng.random() < 0.5


@pytest.mark.parametrize("rounding", ["period", "second"])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_the_services_do_the_same_on_the_model_as_on_postgresql(pool: Any, seed: int, rounding: str) -> None:
    model = Model()
    queries.ledger.make_platform_accounts(model)
    modelled = Modelled("model", Transactions(model, queries.by_text(), NoFaults()), seed, rounding)
    modelled.model = model
    real = Real("PostgreSQL", PostgreSQL(pool), seed, rounding)
    for stage in (real, modelled):
        await stage.set_clock(START)
        async with stage.db.begin() as conn:
            for user in USERS:
                await grant(conn, user, 200)
    now = START
    made: list[Call] = []
    for kind, *arguments in steps_of(seed, made):
        if kind == "clock":
            now += timedelta(seconds=arguments[0])
            for stage in (real, modelled):
                await stage.set_clock(now)
            continue
        if kind == "hour":
            for stage in (real, modelled):
                await stage.let_an_hour_pass()
            await real.looked_after()
            await modelled.looked_after()
            continue
        expected, got = await real.step(kind, *arguments), await modelled.step(kind, *arguments)
        assert got == expected, (kind, arguments)
        if kind == "start" and isinstance(got, Call) and got.id not in {call.id for call in made}:
            made.append(got)
        assert modelled.heard.pushes == real.heard.pushes, (kind, arguments)
    expected_books = comparable(await real.books())
    assert comparable(await modelled.books()) == expected_books
    assert sum(call["periods_billed"] for call in expected_books["calls"]) > 5, "much happened"
    assert any(purchase["status"] == "succeeded" for purchase in expected_books["purchases"])
    assert any(purchase["reversed_tokens"] for purchase in expected_books["purchases"])
