"""The routes of calls, wallets, health and development's login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from realtime.domain.errors import NotFound
from realtime.edge import answers, wire
from realtime.edge.identity import SharedSecret
from realtime.edge.routes import Answer, Asked, Route, Who
from realtime.services import pushes
from realtime.services.calls import Calls
from realtime.services.people import People
from realtime.services.wallets import Wallets


def call_routes(calls: Calls) -> list[Route]:
    async def listing(asked: Asked) -> Answer:
        limit = wire.page_limit(asked.query.get("limit"))
        after = wire.decode_cursor(asked.query.get("cursor"), wire.moment, UUID)
        page = await calls.history(asked.caller.user_id, after, limit + 1)
        more = len(page) > limit
        cursor = wire.encode_cursor(page[limit - 1].created_at.isoformat(), page[limit - 1].id) if more else None
        return Answer({"items": [pushes.call_payload(call) for call in page[:limit]], "nextCursor": cursor})

    async def one(asked: Asked) -> Answer:
        return Answer({"call": pushes.call_payload(await calls.get(asked.caller.user_id, _call_id(asked)))})

    async def end(asked: Asked) -> Answer:
        return Answer({"call": pushes.call_payload(await calls.end(asked.caller.user_id, _call_id(asked)))})

    return [
        Route("GET", "/api/v1/calls", Who.USER, listing, "One's own calls, newest first.",
              answer=answers.CallPage, query=("cursor", "limit")),
        Route("GET", "/api/v1/calls/{callId}", Who.USER, one, "One of one's own calls.", answer=answers.OneCall),
        Route("POST", "/api/v1/calls/{callId}/end", Who.USER, end, "Hang up.", answer=answers.OneCall),
    ]  # fmt: skip


def _call_id(asked: Asked) -> Any:
    try:
        return UUID(asked.path["callId"])
    except ValueError:
        raise NotFound("there is no such call") from None


def wallet_routes(wallets: Wallets) -> list[Route]:
    async def balance(asked: Asked) -> Answer:
        account = await wallets.wallet_of(asked.caller.user_id)
        return Answer(answers.balance(account, pushes.WALLET_KEY))

    async def earnings(asked: Asked) -> Answer:
        account = await wallets.earnings_of(asked.caller.user_id)
        return Answer(answers.balance(account, pushes.EARNINGS_KEY))

    async def transactions(asked: Asked) -> Answer:
        limit = wire.page_limit(asked.query.get("limit"))
        before = wire.decode_cursor(asked.query.get("cursor"), wire.row_id)
        page = await wallets.history(asked.caller.user_id, before[0] if before else None, limit + 1)
        cursor = wire.encode_cursor(page[limit - 1].journal_id) if len(page) > limit else None
        return Answer({"items": [answers.transaction(entry) for entry in page[:limit]], "nextCursor": cursor})

    async def me(asked: Asked) -> Answer:
        rate = await wallets.rate_of(asked.caller.user_id)
        caller = asked.caller
        return Answer({"userId": caller.user_id, "tokensPerPeriod": rate, "trust": caller.trust, "role": caller.role})

    async def set_rate(asked: Asked) -> Answer:
        await wallets.set_rate(asked.caller.user_id, asked.payload.tokensPerPeriod)
        return Answer({"tokensPerPeriod": asked.payload.tokensPerPeriod})

    return [
        Route("GET", "/api/v1/balance", Who.USER, balance, "The wallet.", answer=answers.Balance),
        Route("GET", "/api/v1/earnings", Who.USER, earnings, "What one's answered calls brought.",
              answer=answers.Balance),
        Route("GET", "/api/v1/transactions", Who.USER, transactions, "The wallet's entries, newest first.",
              answer=answers.TransactionPage, query=("cursor", "limit")),
        Route("GET", "/api/v1/me", Who.USER, me, "Who the server takes you for.", answer=answers.Me),
        Route("PUT", "/api/v1/me/rate", Who.USER, set_rate, "What a period of one's own calls costs from now on.",
              payload=wire.SetRate, answer=answers.Rate),
    ]  # fmt: skip


def people_routes(people: People) -> list[Route]:
    async def online(asked: Asked) -> Answer:
        users = await people.online(wire.page_limit(asked.query.get("limit")))
        shown = [
            {"userId": one.user_id, "ratePerPeriod": one.rate_tokens_per_period, "inCall": one.in_call} for one in users
        ]
        return Answer({"users": shown, "queryKey": ["online"]})

    return [
        Route("GET", "/api/v1/users/online", Who.USER, online, "Some of the users who can be called now, by name.",
              answer=answers.OnlineUsers, query=("limit",)),
    ]  # fmt: skip


Probe = Callable[[], Awaitable[str | None]]
"""Answers None when its server answers, else why not."""


def health_routes(probes: dict[str, Probe]) -> list[Route]:
    async def health(_asked: Asked) -> Answer:
        return Answer({"status": "healthy", "timestamp": pushes.iso(datetime.now(UTC))})

    async def ready(_asked: Asked) -> Answer:
        problems = {name: why for name, probe in probes.items() if (why := await probe())}
        if problems:
            return Answer({"status": "unready", "problems": problems}, 503)
        return Answer({"status": "ready"})

    return [
        Route("GET", "/health", Who.ANYONE, health, "Whether the process answers; it asks nobody else.",
              answer=answers.Health),
        Route("GET", "/ready", Who.ANYONE, ready, "Whether everything it needs answers.",
              answer=answers.Ready, also={503: answers.Ready}),
    ]  # fmt: skip


def development_routes(secret: SharedSecret) -> list[Route]:
    async def login(asked: Asked) -> Answer:
        wanted = asked.payload
        return Answer({"token": secret.issue(wanted.userId, trust=wanted.trust, role=wanted.role)})

    return [
        Route("POST", "/dev/login", Who.ANYONE, login, "Development only: a token for anybody.",
              payload=wire.DevLogin, answer=answers.Token),
    ]  # fmt: skip
