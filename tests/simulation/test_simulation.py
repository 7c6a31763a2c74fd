"""Histories from a fresh seed hold; a seed is one history; and mistakes are found, or this would show nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from realtime.adapters import calls_store, purchases_store
from realtime.adapters.stripe_gateway import PaymentStatus
from realtime.services import calls, charging, purchase_records
from tests.servers import ROOT
from tests.simulation.clock import VirtualLoop
from tests.simulation.history import Broken, History, silence

SECONDS = float(os.environ.get("SIMULATION_SECONDS", "25"))
HISTORIES_TO_FIND_A_MISTAKE = 400


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    with silence():
        yield loop
    loop.close()


def test_the_invariants_hold_in_every_history_of_a_fresh_seed(loop: VirtualLoop) -> None:
    seed = random.randrange(2**32)
    until = time.monotonic() + SECONDS
    done = periods = purchases = deaths = 0
    while time.monotonic() < until:
        history = History(seed + done)
        try:
            history.run(loop)
        except Broken as broken:
            pytest.fail(f"{broken}\nreplay: scripts/simulate --seed {seed + done} --histories 1 --trace")
        done += 1
        periods += sum(call["periods_billed"] for call in history.db.table("calls").values())
        purchases += sum(row["status"] == "succeeded" for row in history.db.table("purchases").values())
        deaths += sum(not process.alive for process in history.processes)
    print(f"{done} histories from seed {seed}: {periods} periods, {purchases} purchases, {deaths} deaths")
    assert min(periods, purchases, deaths) > done // 4, "much happened in them"


def test_a_seed_is_the_same_history_in_every_process() -> None:
    def trace(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "42", "--histories", "3", "--trace"],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": hash_seed}, text=True, capture_output=True,
            timeout=60, check=True,
        )  # fmt: skip
        return done.stdout.rsplit("\n", 2)[0]

    assert trace("1") == trace("2"), "the order of sets is no part of it"


# Mistakes, each in the services themselves.


_end = calls_store.end


async def _end_as_it_is_now(conn: Any, before: Any, after: Any, decided_at: Any, back: Any, put_out: Any) -> Any:
    now = await calls_store.get(conn, before.id)
    return await _end(conn, now or before, after, decided_at, back, put_out)


async def _bill_nothing_before_an_event(self: Any, conn: Any, call: Any, now: Any, news: Any) -> Any:
    return call


async def _lock_no_purchase(conn: Any, purchase_id: Any) -> Any:
    return await purchases_store.get(conn, purchase_id)


async def _pay_anew(self: Any, purchase: Any, budget: Any, *, resumed: bool) -> Any:
    payment = await self._gateway.create(
        purchase.id, purchase.user_id, purchase.amount_cents, purchase.payment_method_id
    )
    if payment.status is PaymentStatus.REQUIRES_CONFIRMATION:
        await self._gateway.confirm(payment.id, purchase.id)
    return await self._records.name_payment(purchase.id, payment)


async def _nothing() -> None:
    return None


MISTAKES: dict[str, tuple[Any, str, Any]] = {
    "an event that does not bill what was due before it": (
        calls.Calls, "_bring_up_to_date", _bill_nothing_before_an_event,
    ),
    "an outcome recorded without holding its purchase": (purchase_records, "_locked", _lock_no_purchase),
    "a payment confirmed before its purchase names it": (charging.Charging, "prepare", _pay_anew),
    "an event that ends its call though it has moved on": (calls_store, "end", _end_as_it_is_now),
    "an allowance that is never given back": (
        purchase_records.MoneyLimits, "release", staticmethod(lambda *_: _nothing()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_services_is_found(loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    owner, name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(owner, name, wrong)
    for seed in range(HISTORIES_TO_FIND_A_MISTAKE):
        try:
            History(seed).run(loop)
        except Broken as broken:
            print(f"found in history {seed}: {broken}")
            return
    pytest.fail("not found")
