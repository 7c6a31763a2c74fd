"""What people do: ring each other, answer, hang up, buy, come and go; and admins and banks, who take money back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import RedisError

from realtime.domain import errors
from realtime.domain.trust import Identity, Trust, UserRole
from realtime.services.money_limits import Operation
from realtime.services.payments import Order
from tests.simulation.provider import CARDS, INQUIRY, OPEN
from tests.simulation.rules import ADMINS, AWAY_S, USERS, Lost

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.process import Process


class People:
    def __init__(self, history: History) -> None:
        self._history = history

    async def live(self, user: str) -> None:
        tab: Process | None = None
        number = 0
        while True:
            if tab is None or not tab.alive:
                tab = await self._open_tab(user)
            await asyncio.sleep(self._history.random.expovariate(1.0))
            number += 1
            action = self._history.random.choices(
                ("ring", "answer", "hang up", "buy", "leave", "settle"), (5, 6, 2, 3, 1, 2)
            )[0]
            try:
                if action == "ring":
                    await self._ring(user, f"{user}-{number}")
                elif action in {"answer", "hang up"}:
                    await self._use_call(user, action)
                elif action == "buy":
                    await self._buy(user, f"{user}-{number}")
                elif action == "leave" and tab.alive:
                    with contextlib.suppress(RedisError):
                        await self._history.ask(tab, tab.attendance.left(user))
                    await asyncio.sleep(self._history.random.choice([0.5, 3.0, AWAY_S + 8.0]))
                    tab = None
                elif action == "settle":
                    self._provider_moves()
            except Lost:
                self._history.note(f"{user}: lost the connection ({action})")

    async def _open_tab(self, user: str) -> Process:
        process = await self._history.some_process()
        with contextlib.suppress(Lost):
            await self._history.ask(process, process.attendance.arrived(user))
        return process

    async def _ring(self, user: str, request_id: str) -> None:
        callee = self._history.random.choice([other for other in USERS if other != user])
        caller = Identity(user, Trust.VIP, UserRole.USER, 2**33)
        for _ in range(self._history.random.choice([1, 1, 3])):  # an impatient client asks again, with the same request
            process = await self._history.some_process()
            with contextlib.suppress(Lost):
                answer = await self._history.ask(process, process.calls.start(caller, callee, request_id))
                self._history.note(f"{user} rings {callee}: {short(answer)}")

    async def _use_call(self, user: str, action: str) -> None:
        live = self._history.db.table("live").get(user)
        if live is None:
            return
        call_id = live["call_id"]
        process = await self._history.some_process()
        calls = process.calls
        if action == "answer":
            steps: Any = [calls.accept(user, call_id, f"tab of {user}")]
            if self._history.random.random() < 0.3:  # two tabs at once
                steps.append(calls.accept(user, call_id, f"other tab of {user}"))
        else:
            steps = [self._history.random.choice([calls.end, calls.decline, calls.cancel, calls.join])(user, call_id)]
        answers = await asyncio.gather(*(self._history.ask(process, step) for step in steps), return_exceptions=True)
        self._history.note(f"{user} {action}: {[short(answer) for answer in answers]}")

    async def _buy(self, user: str, key: str) -> None:
        order = Order(
            self._history.random.choice([100, 500, 900]), self._history.random.choices(CARDS, (6, 2, 2, 2, 1))[0]
        )
        for _ in range(self._history.random.choice([1, 2, 3])):
            process = await self._history.some_process()
            try:
                operation = Operation(user, key, 86_400)
                answer = await self._history.ask(process, process.payments.buy(operation, order))
                self._history.note(f"{user} buys by {order.payment_method_id}: {short(answer)}")
                self._history.books.check_answer(user, key, answer)
            except Lost:
                self._history.note(f"{user} buys: lost")
            await asyncio.sleep(self._history.random.choice([0.0, 0.1, 7.0]))

    def _provider_moves(self) -> None:
        for payment_id in list(self._history.provider.intents):
            if self._history.random.random() < 0.5:
                self._history.provider.settle(payment_id)
                self._history.provider.authenticate(payment_id, success=self._history.random.random() < 0.7)

    # -- admins and banks ----------------------------------------------------------------------------------------

    async def take_back(self) -> None:
        """Admins refund, by us and at the provider's own pages; banks dispute, and decide."""
        number = 0
        while True:
            await asyncio.sleep(self._history.random.expovariate(1.5))
            number += 1
            paid = self._history.provider.paid()
            if not paid:
                continue
            one = self._history.random.choice(paid[-3:])
            payment_id, amount_cents = one.payment.id, one.payment.amount_cents
            part = self._history.random.choice([amount_cents, amount_cents // 3 + 1])
            match self._history.random.choices(("refund", "by hand", "dispute", "decide"), (4, 1, 2, 4))[0]:
                case "refund":
                    await self._refund(one.purchase_id, f"refund-{number}")
                case "by hand":
                    self._history.provider.pay_back_by_hand(payment_id, part)
                case "dispute" if len(one.disputes) < 2:
                    self._history.provider.dispute(payment_id, part, self._history.random.choice([OPEN, OPEN, INQUIRY]))
                case "decide":
                    self._banks_decide()

    def _banks_decide(self) -> None:
        for payment_id, one in list(self._history.provider.intents.items()):
            for dispute in one.disputes:
                if dispute.status == OPEN:
                    ends: tuple[str, ...] = (OPEN, "won", "lost")
                elif dispute.status == INQUIRY:
                    ends = (OPEN, "warning_closed")
                else:
                    continue
                self._history.provider.move_dispute(payment_id, dispute, self._history.random.choice(ends))

    async def _refund(self, purchase_id: UUID, key: str) -> None:
        """One or two admins order it at once, and an impatient one again."""
        admins = ADMINS[: self._history.random.choice([1, 1, 1, 2])]
        for _ in range(self._history.random.choice([1, 1, 2])):
            orders = []
            for admin in admins:
                process = await self._history.some_process()
                operation = Operation(admin, key, 86_400)
                orders.append(self._history.ask(process, process.refunds.refund(operation, purchase_id)))
            for answer in await asyncio.gather(*orders, return_exceptions=True):
                self._history.note(f"refund: {short(answer)}")
                self._history.books.check_refund_answer(purchase_id, answer)
            await asyncio.sleep(self._history.random.choice([0.0, 0.1, 7.0]))


def short(answer: Any) -> str:
    if isinstance(answer, errors.Refused):
        return answer.code
    if isinstance(answer, BaseException):
        return type(answer).__name__
    call = getattr(answer, "call", answer)
    return str(getattr(call, "status", None) or getattr(answer, "outcome", answer))
