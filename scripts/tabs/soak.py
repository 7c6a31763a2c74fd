"""A long day: calls that are metered and replaced by new ones, tabs that come and go, purchases now and then.

Calls begin one by one in the first tenth of the time and end so in the last, since nobody's users all hang up at once.
They are driven by acknowledgements alone, since any tab may be closed while its user waits for an event. Every
twentieth caller is kept short of tokens, so that some calls end unpaid.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import uuid4

import aiohttp

from scripts.tabs.crowd import Crowd
from scripts.tabs.tab import OPEN, Tab
from scripts.tabs.users import User

PURSE_TOKENS = 1_000_000
SHORT_PURSE_TOKENS = 100
SHORT_OF_TOKENS_EVERY = 20
GRANTS_AT_ONCE = 8
ANSWERED_WITHIN_S = 20.0
PAUSE_S = 0.3
ASKED_AGAIN = 10
AWAY_S = 1.0
CENTS = 500
SPENT = "call:start: insufficient_funds"
"""The last call was hung up when its caller's tokens were just used up."""
REFUSED = (RuntimeError, ConnectionError, aiohttp.ClientError, OSError, TimeoutError)


class Soak:
    def __init__(self, crowd: Crowd, *, call_s: float, stripe_url: str, until: float) -> None:
        self.crowd = crowd
        self.call_s = call_s
        self.stripe_url = stripe_url
        self.until = until
        self.in_call: dict[User, str] = {}
        self._granting = asyncio.Semaphore(GRANTS_AT_ONCE)

    @property
    def over(self) -> bool:
        return time.perf_counter() >= self.until

    # -- calls -------------------------------------------------------------------------------------------------------

    async def pair(self, number: int, caller: User, callee: User, first_after_s: float, last_until: float) -> None:
        purse = SHORT_PURSE_TOKENS if number % SHORT_OF_TOKENS_EVERY == 0 else PURSE_TOKENS
        await asyncio.sleep(first_after_s)
        await self._grant(caller, purse)
        while time.perf_counter() < last_until:
            try:
                why = await self._call(caller, callee, last_until)
                self.crowd.done[f"calls: {why}"] += 1
            except REFUSED as error:
                why = str(error) or type(error).__name__
                (self.crowd.done if why == SPENT else self.crowd.failures)[why] += 1
            if why in {"insufficient_funds", SPENT}:
                await self._grant(caller, purse)
            await asyncio.sleep(PAUSE_S)

    async def _call(self, caller: User, callee: User, until: float) -> str:
        started = await self._ask(caller, "call:start", {"calleeId": callee.name, "requestId": uuid4().hex})
        call_id: str = started["call"]["id"]
        try:
            await self._ask(callee, "call:accept", {"callId": call_id})
            await self._ask(caller, "call:join", {"callId": call_id})
            self.in_call[caller] = self.in_call[callee] = call_id
            lasts_s = self.call_s * random.uniform(0.5, 1.5)
            await asyncio.sleep(min(lasts_s, max(0.0, until - time.perf_counter())))
        finally:
            self.in_call.pop(caller, None)
            self.in_call.pop(callee, None)
            ended = await self._ask(random.choice((caller, callee)), "call:end", {"callId": call_id})
        return str(ended["call"]["endReason"])

    async def _ask(self, user: User, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Again while the server says it is busy: asking twice is safe. Raises one of REFUSED."""
        for _ in range(ASKED_AGAIN):
            answer = await self._ask_once(user, event, payload)
            if answer.get("ok"):
                return answer
            code = answer.get("error", {}).get("code")
            if code != "unavailable":
                raise RuntimeError(f"{event}: {code}")
            self.crowd.done[f"{event} asked again"] += 1
            await asyncio.sleep(random.uniform(0, 2))
        raise RuntimeError(f"{event}: unavailable, {ASKED_AGAIN} times")

    async def _ask_once(self, user: User, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        """By a tab that stays open until it is answered."""
        deadline = time.perf_counter() + ANSWERED_WITHIN_S
        while not (there := [tab for tab in user.tabs if tab.state == OPEN]):
            if time.perf_counter() > deadline:
                raise TimeoutError("no tab of a user came back in time")
            await asyncio.sleep(0.1)
        tab = there[0]
        tab.kept += 1
        started_at = time.perf_counter()
        try:
            answer: dict[str, Any] = await asyncio.wait_for(tab.ask(event, payload), ANSWERED_WITHIN_S)
        except TimeoutError:
            raise TimeoutError(f"{event}: not answered in time") from None
        finally:
            tab.kept -= 1
        self.crowd.delivered(event, time.perf_counter() - started_at)
        return answer

    # -- money -------------------------------------------------------------------------------------------------------

    async def _grant(self, user: User, tokens: int) -> None:
        try:
            async with self._granting:
                await self.crowd.credentials.grant(user.name, tokens)
        except REFUSED as error:
            self.crowd.failures[str(error) or type(error).__name__] += 1
        else:
            self.crowd.done["grants"] += 1

    async def buy(self, users: list[User], every_s: float) -> None:
        while not self.over:
            await asyncio.sleep(every_s)
            try:
                await self._purchase(random.choice(users))
            except REFUSED as error:
                self.crowd.failures[f"purchase: {error or type(error).__name__}"] += 1
            else:
                self.crowd.done["purchases"] += 1

    async def _purchase(self, user: User) -> None:
        card = {"type": "card", "card[number]": "4242424242424242", "card[exp_month]": "12",
                "card[exp_year]": "2040", "card[cvc]": "123"}  # fmt: skip
        signed = {"Authorization": "Bearer sk_test_soak"}
        async with self.crowd.http.post(f"{self.stripe_url}/v1/payment_methods", data=card, headers=signed) as made:
            method = (await made.json())["id"]
        headers = {"Authorization": f"Bearer {user.auth['token']}", "Idempotency-Key": uuid4().hex}
        body = {"amountInCents": CENTS, "paymentMethodId": method}
        url = f"{self.crowd.url}/api/v1/payments/purchase-tokens"
        started_at = time.perf_counter()
        async with self.crowd.http.post(url, json=body, headers=headers) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {(await answer.json(content_type=None)).get('code', '')}")
        self.crowd.delivered("purchase", time.perf_counter() - started_at)

    # -- tabs --------------------------------------------------------------------------------------------------------

    async def come_and_go(self, users: list[User], per_s: float) -> None:
        going: set[asyncio.Task[None]] = set()
        while not self.over:
            await asyncio.sleep(random.expovariate(per_s))
            user = random.choice(users)
            there = [tab for tab in user.tabs if tab.state == OPEN]
            free = [tab for tab in there if not tab.kept]
            if free and len(there) > 1:  # who is called has a tab
                self._leave(user, random.choice(free))
                task = asyncio.create_task(self._come_back(user))
                going.add(task)
                task.add_done_callback(going.discard)
        await asyncio.gather(*going)

    def _leave(self, user: User, tab: Tab) -> None:
        """Half of them say goodbye, the others are cut off. In the turn it was found free in: soon somebody may ask."""
        user.tabs.remove(tab)
        self.crowd.opened -= 1
        tab.close() if random.random() < 0.5 else tab.give_up()

    async def _come_back(self, user: User) -> None:
        """Who was in a call asks for its token again."""
        await asyncio.sleep(random.uniform(0, 2 * AWAY_S))
        await self.crowd.connect(user)
        self.crowd.done["tabs that came back"] += 1
        if (call_id := self.in_call.get(user)) is not None:
            try:
                await self._ask(user, "call:join", {"callId": call_id})
            except REFUSED as error:
                if str(error) not in {"call:join: call_ended", "call:join: not_found"}:
                    self.crowd.failures[str(error) or type(error).__name__] += 1


async def run(
    crowd: Crowd,
    *,
    seconds: float,
    calls: int,
    call_s: float,
    ramp_s: float,
    tabs_per_s: float,
    purchase_every_s: float,
    stripe_url: str,
) -> None:
    """Keep `calls` going for `seconds`; each has ended when this returns."""
    started_at = time.perf_counter()
    until = started_at + seconds
    soak = Soak(crowd, call_s=call_s, stripe_url=stripe_url, until=until)
    users = [user for user in crowd.users if user.tabs]
    pairs = list(zip(users[::2], users[1::2], strict=False))[:calls]
    await asyncio.gather(
        *(soak.pair(n, *pair, at_s := ramp_s * n / len(pairs), until - ramp_s + at_s) for n, pair in enumerate(pairs)),
        soak.come_and_go(users, tabs_per_s),
        soak.buy(users, purchase_every_s),
    )
