"""What goes to the browser: the payloads of calls and balances, and to whom each is sent.

A push is decided inside a transaction and sent after its commit. One batch of pushes travels as one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from ledger.journals import PostedLeg
from realtime.domain.call import AGORA_UID, Account, Call, Role
from realtime.domain.transitions import Status


class Push(NamedTuple):
    room: str
    event: str
    data: dict[str, Any]


class Pushes(Protocol):
    """Where pushes go: to every tab in the room, on every instance. Never raises; a lost push costs no money."""

    async def emit_many(self, pushes: Iterable[tuple[str, str, Any]]) -> None: ...


class TokenIssuer(Protocol):
    app_id: str

    def issue(self, channel: str, uid: int, now: int, expires_at: int) -> str: ...


WALLET_KEY = ["tokenBalance"]
EARNINGS_KEY = ["earnings"]


def user_room(user_id: str) -> str:
    """Every tab of the user."""
    return f"user:{user_id}"


def call_room(call: Call, role: Role) -> str:
    """The tabs in the call on one side: each side's video token is its own."""
    return f"call:{call.id}:{role}"


def is_call_room(room: object) -> bool:
    return isinstance(room, str) and room.startswith("call:")


def iso(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if time else None


def call_payload(call: Call) -> dict[str, Any]:
    return {
        "id": str(call.id),
        "channel": call.channel,
        "callerId": call.caller_id,
        "calleeId": call.callee_id,
        "status": call.status.value,
        "rateTokensPerPeriod": call.terms.rate_tokens_per_period,
        "periodSeconds": call.terms.period_s,
        "startedAt": iso(call.started_at),
        "paidThrough": iso(call.paid_through),
        "endedAt": iso(call.ended_at),
        "endReason": call.end_reason.value if call.end_reason else None,
        "periodsBilled": call.periods_billed,
        "tokensSpent": call.tokens_spent,
    }


def agora_payload(issuer: TokenIssuer, call: Call, role: Role, now: datetime) -> dict[str, Any]:
    """One side's way into the channel; its token ends with the paid time and the grace, whatever happens to us."""
    expires_at = call.token_expires_at
    uid = AGORA_UID[role]
    token = issuer.issue(call.channel, uid, int(now.timestamp()), int(expires_at.timestamp()))
    return {"appId": issuer.app_id, "channel": call.channel, "uid": uid, "token": token, "expiresAt": iso(expires_at)}


def incoming(call: Call) -> list[Push]:
    return [
        Push(user_room(call.callee_id), "call:incoming", {"call": call_payload(call)}),
        *invalidate([call.caller_id, call.callee_id], ["calls"]),
    ]


def accepted(call: Call) -> list[Push]:
    payload = {"call": call_payload(call), "answeredBy": call.answered_by}
    return [
        *(Push(user_room(user), "call:accepted", payload) for user in (call.caller_id, call.callee_id)),
        *invalidate([call.caller_id, call.callee_id], ["calls"]),
    ]


def ended(call: Call) -> list[Push]:
    payload = {"call": call_payload(call)}
    return [
        *(Push(user_room(user), "call:ended", payload) for user in (call.caller_id, call.callee_id)),
        *invalidate([call.caller_id, call.callee_id], ["calls"]),
    ]


def invalidate(user_ids: Sequence[str], *query_keys: list[str]) -> list[Push]:
    payload = {"queryKeys": list(query_keys)}
    return [Push(user_room(user), "query:invalidate", payload) for user in user_ids]


def account_after(leg: PostedLeg) -> Account:
    """Where a posted leg left its account."""
    assert leg.balance is not None, "a posted journal's accounts exist"
    assert leg.version is not None
    return Account(leg.balance, leg.version)


def balance_data(account: Account, *, delta: int, reason: str, query_key: list[str], **more: Any) -> dict[str, Any]:
    return {
        "balance": account.balance_tokens,
        "version": account.version,
        "delta": delta,
        "reason": reason,
        **more,
        "queryKey": query_key,
    }


def wallet_changed(user_id: str, account: Account, *, delta: int, reason: str, **more: Any) -> list[Push]:
    """`balance:update` and the history it is an entry of."""
    data = balance_data(account, delta=delta, reason=reason, query_key=WALLET_KEY, **more)
    return [Push(user_room(user_id), "balance:update", data), *invalidate([user_id], ["transactions"])]


def earnings_changed(user_id: str, account: Account, *, delta: int, reason: str, **more: Any) -> list[Push]:
    data = balance_data(account, delta=delta, reason=reason, query_key=EARNINGS_KEY, **more)
    return [Push(user_room(user_id), "earnings:update", data), *invalidate([user_id], ["transactions"])]


def snapshot(wallet: Account, call: Call | None) -> list[tuple[str, dict[str, Any]]]:
    """What one tab is told of where its user stands, when it connects or may have missed something."""
    data = balance_data(wallet, delta=0, reason="snapshot", query_key=WALLET_KEY)
    told: list[tuple[str, dict[str, Any]]] = [("balance:update", data)]
    if call is not None and call.status is Status.RINGING:
        told.append(("call:incoming", {"call": call_payload(call)}))
    elif call is not None:
        told.append(("call:accepted", {"call": call_payload(call), "answeredBy": call.answered_by}))
    return told


LOW_BALANCE_PERIODS = 2


def low_balance(call: Call, wallet: Account) -> list[Push]:
    """A warning to the payer while the wallet holds less than two more periods."""
    periods_left = wallet.balance_tokens // call.terms.rate_tokens_per_period
    if call.status is not Status.ACTIVE or periods_left >= LOW_BALANCE_PERIODS:
        return []
    data = {"balance": wallet.balance_tokens, "periodsLeft": periods_left, "callId": str(call.id)}
    return [Push(user_room(call.caller_id), "balance:low", data)]


def renewed_tokens(issuer: TokenIssuer, call: Call, now: datetime) -> list[Push]:
    return [
        Push(
            call_room(call, role),
            "call:token",
            {"callId": str(call.id), "agora": agora_payload(issuer, call, role, now)},
        )
        for role in Role
    ]


def paid_period(call: Call, wallet: Account | None, earnings: Account | None) -> list[Push]:
    """What both sides learn of a period that was just debited."""
    rate = call.terms.rate_tokens_per_period
    call_id = str(call.id)
    news: list[Push] = []
    if wallet is not None:
        news += wallet_changed(call.caller_id, wallet, delta=-rate, reason="call_debit", callId=call_id)
        news += low_balance(call, wallet)
    if earnings is not None:
        earned = rate - call.terms.fee_tokens_per_period
        news += earnings_changed(call.callee_id, earnings, delta=earned, reason="call_debit", callId=call_id)
    return news
