"""What the named queries do, on the model of `database.py`. Each answers rows as its SQL does, in its SQL's order."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.sql import load
from tests.simulation.database import Database, Row, Transaction

FINISHED = ("succeeded", "failed")
CREDIT_NORMAL = {"wallet", "earnings", "platform_revenue", "token_sales"}
NEVER_BELOW_ZERO = {"wallet", "earnings"}
PLATFORM = (
    "granted_tokens", "platform_revenue", "stripe_clearing", "stripe_losses", "token_sales", "tokens_issued",
)  # fmt: skip


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def found(*rows: Row | None) -> list[Row]:
    return [dict(row) for row in rows if row is not None]


def make_platform_accounts(db: Database) -> None:
    for kind in PLATFORM:
        _new_account(db, db.table("accounts"), db.table("account_ids"), None, kind)


def _new_account(db: Database, accounts: Any, ids: Any, owner: str | None, kind: str) -> int:
    number = db.next_number()
    accounts[number] = {"id": number, "owner_id": owner, "kind": kind, "balance": 0, "version": 0}
    ids[owner, kind] = {"id": number}
    return number


# -- the ledger --------------------------------------------------------------------------------------------------------


async def store__ensure_accounts(tx: Transaction, owners: list[str], kinds: list[str]) -> list[Row]:
    ids = []
    for owner, kind in zip(owners, kinds, strict=True):
        known = tx.get("account_ids", (owner, kind))
        if known is None:
            # Made outside the transaction's own changes: an account nobody uses harms nobody, as in the database.
            number = _new_account(tx.db, tx.db.table("accounts"), tx.db.table("account_ids"), owner, kind)
        else:
            number = known["id"]
        ids.append(number)
    return [{"ids": ids}]


async def store__platform_account(tx: Transaction, kind: str) -> list[Row]:
    return found(tx.get("account_ids", (None, kind)))


async def store__balance(tx: Transaction, owner: str, kind: str) -> list[Row]:
    known = tx.get("account_ids", (owner, kind))
    account = tx.get("accounts", known["id"]) if known else None
    return [{"balance": account["balance"], "version": account["version"]}] if account else []


async def store__audit(_tx: Transaction, *_arguments: Any) -> list[Row]:
    return []


async def store__post(
    tx: Transaction, keys: list[str], types: list[Any], details: list[str], ordinals: list[int], accounts: list[int],
    amounts: list[int], _actor: str,
) -> list[Row]:  # fmt: skip
    journals = [
        (key, str(kind), [(a, n) for o, a, n in zip(ordinals, accounts, amounts, strict=True) if o == ordinal])
        for ordinal, (key, kind) in enumerate(zip(keys, types, strict=True), start=1)
    ]
    return await post(tx, journals)


async def post(tx: Transaction, journals: list[tuple[str, str, list[tuple[int, int]]]]) -> list[Row]:
    for account_id in sorted({account_id for _, _, legs in journals for account_id, _ in legs}):
        await tx.hold("accounts", account_id)
    return [_post_one(tx, key, kind, legs) for key, kind, legs in journals]


def _post_one(tx: Transaction, key: str, kind: str, legs: list[tuple[int, int]]) -> Row:
    answer: Row = {"outcome": "posted", "journal_id": None, "accounts": [], "balances": [], "versions": []}
    content = (kind, tuple(sorted(legs)))
    known = tx.get("journals", key)
    if known is not None:
        return answer | {"outcome": "duplicate" if known["content"] == content else "key_reused"}
    after = {}
    for account_id, amount in legs:
        account = tx.get("accounts", account_id)
        assert account is not None, "the services ask for accounts they have made"
        balance = account["balance"] + (-amount if account["kind"] in CREDIT_NORMAL else amount)
        if balance < 0 and account["kind"] in NEVER_BELOW_ZERO:
            return answer | {"outcome": "insufficient_funds"}
        after[account_id] = account | {"balance": balance, "version": account["version"] + 1}
    for account_id, account in after.items():
        tx.put("accounts", account_id, account)
    left = {account_id: (account["version"], account["balance"]) for account_id, account in after.items()}
    tx.put("journals", key, {"content": content, "left": left})
    return answer | {
        "accounts": [account_id for account_id, _ in legs],
        "balances": [after[account_id]["balance"] for account_id, _ in legs],
        "versions": [after[account_id]["version"] for account_id, _ in legs],
    }


# -- calls -------------------------------------------------------------------------------------------------------------


async def calls__now(tx: Transaction) -> list[Row]:
    return [{"now": tx.db.clock()}]


async def calls__call_of_request(tx: Transaction, caller: str, request: str) -> list[Row]:
    known = tx.get("requests", (caller, request))
    return found(tx.get("calls", known["id"]) if known else None)


async def calls__rate_of(_tx: Transaction, _user: str) -> list[Row]:
    return []


async def calls__insert_call(
    tx: Transaction, call_id: UUID, caller: str, callee: str, request: str, rate: int, fee: int, fee_percent: int,
    period_s: int, grace_s: int, refund: bool, wallet_id: int, earnings_id: int, ring_s: int,
) -> list[Row]:  # fmt: skip
    if await tx.hold("requests", (caller, request)) is not None:
        return []
    now = tx.db.clock()
    row = {
        "id": call_id, "caller_id": caller, "callee_id": callee, "request_id": request, "status": "ringing",
        "rate_tokens_per_period": rate, "fee_tokens_per_period": fee, "fee_percent": fee_percent,
        "period_seconds": period_s, "grace_seconds": grace_s, "refund_unused_seconds": refund,
        "caller_wallet_id": wallet_id, "callee_earnings_id": earnings_id, "created_at": now,
        "ring_expires_at": now + seconds(ring_s), "answered_by": None, "started_at": None, "paid_through": None,
        "ended_at": None, "end_reason": None, "periods_billed": 0, "tokens_spent": 0, "caller_absent_since": None,
        "callee_absent_since": None,
    }  # fmt: skip
    await tx.hold("calls", call_id)
    tx.put("calls", call_id, row)
    tx.put("requests", (caller, request), {"id": call_id})
    return found(row)


async def calls__take_parties(tx: Transaction, users: list[str], call_id: UUID) -> list[Row]:
    taken = []
    for user in sorted(users):
        if await tx.hold("live", user) is None:
            tx.put("live", user, {"user_id": user, "call_id": call_id})
            taken.append({"user_id": user})
    return taken


async def calls__call_and_now(tx: Transaction, call_id: UUID) -> list[Row]:
    row = tx.get("calls", call_id)
    return found(row and row | {"now": tx.db.clock()})


async def calls__call(tx: Transaction, call_id: UUID) -> list[Row]:
    return found(tx.get("calls", call_id))


DECISION_HOLDS_S = 3.0
NOT_MOVED = ("wallet_balance", "wallet_version", "earnings_balance", "earnings_version")


def _holds(tx: Transaction, decided_at: datetime) -> bool:
    return decided_at <= tx.db.clock() < decided_at + seconds(DECISION_HOLDS_S)


async def calls__answer_call(
    tx: Transaction, call_id: UUID, answered_by: str | None, decided_at: datetime, queue: str | None, task: str | None
) -> list[Row]:
    row = await tx.hold("calls", call_id)
    if row is None or row["status"] != "ringing" or not _holds(tx, decided_at):
        return []
    change = {"status": "active", "answered_by": answered_by, "started_at": decided_at, "paid_through": decided_at}
    return _put_out(tx, await _bill(tx, [await _save(tx, row, change)], tx.db.clock()), queue, task)


async def calls__end_call(
    tx: Transaction, call_id: UUID, status: Any, periods: int, decided_at: datetime, ended_at: datetime, reason: Any,
    back: int, from_earnings: int, queue: str | None, task: str | None,
) -> list[Row]:  # fmt: skip
    row = await tx.hold("calls", call_id)
    if row is None or (row["status"], row["periods_billed"]) != (str(status), periods) or not _holds(tx, decided_at):
        return []
    answer: Row = {"outcome": None} | dict.fromkeys(NOT_MOVED)
    spent = row["tokens_spent"]
    if back:
        revenue = tx.get("account_ids", (None, "platform_revenue"))
        assert revenue is not None
        legs = [
            (row["caller_wallet_id"], -back), (row["callee_earnings_id"], from_earnings),
            (revenue["id"], back - from_earnings),
        ]  # fmt: skip
        journal = (f"call:{call_id}:settle", "call_refund", [leg for leg in legs if leg[1]])
        [posting] = await post(tx, [journal])
        answer["outcome"] = posting["outcome"]
        if posting["outcome"] == "posted":
            spent -= back
            answer |= {"wallet_balance": posting["balances"][0], "wallet_version": posting["versions"][0]}
            if from_earnings:
                answer |= {"earnings_balance": posting["balances"][1], "earnings_version": posting["versions"][1]}
    change = {"status": "ended", "ended_at": ended_at, "end_reason": str(reason), "tokens_spent": spent}
    return _put_out(tx, [await _save(tx, row, change) | answer], queue, task)


def _put_out(tx: Transaction, answers: list[Row], queue: str | None, task: str | None) -> list[Row]:
    """Queue a job for each side of the calls that have ended."""
    for call in answers if task is not None else []:
        for uid in (1, 2) if call["status"] == "ended" else ():
            number = tx.db.next_number()
            arguments = {"channel": f"call_{call['id'].hex}", "uid": uid}
            tx.put("jobs", number, {"id": number, "task": task, "args": arguments, "due_at": tx.db.clock()})
    return answers


async def _save(tx: Transaction, row: Row, change: Row) -> Row:
    """Change a call, which lets its two people go when it ends."""
    after = row | change
    tx.put("calls", row["id"], after)
    if row["status"] != "ended" and after["status"] == "ended":
        for user in (row["caller_id"], row["callee_id"]):
            live = await tx.hold("live", user)
            if live is not None and live["call_id"] == row["id"]:
                tx.put("live", user, None)
    return after


async def calls__bill_due(tx: Transaction, limit: int, queue: str | None, task: str | None) -> list[Row]:
    now = tx.db.clock()
    due = sorted((row for row in tx.rows("calls") if _is_due(row, now)), key=lambda row: row["paid_through"])
    held = []
    for row in due[:limit]:
        current = await tx.hold("calls", row["id"], skip=True)
        if current is not None and _is_due(current, now):
            held.append(current)
    return _put_out(tx, await _bill(tx, held, now), queue, task)


async def calls__bill_call(tx: Transaction, call_id: UUID, queue: str | None, task: str | None) -> list[Row]:
    now = tx.db.clock()
    row = await tx.hold("calls", call_id)
    return _put_out(tx, await _bill(tx, [row] if row is not None and _is_due(row, now) else [], now), queue, task)


def _is_due(row: Row, now: datetime) -> bool:
    return bool(row["status"] == "active" and row["paid_through"] <= now)


async def _bill(tx: Transaction, due: list[Row], now: datetime) -> list[Row]:
    """The rules of `bill_calls`, in the order its comment has them."""
    revenue = tx.get("account_ids", (None, "platform_revenue"))
    assert revenue is not None

    def outlived(row: Row) -> bool:
        return bool(row["paid_through"] + seconds(row["grace_seconds"]) < now and row["periods_billed"] > 0)

    billable = [row for row in due if not outlived(row)]
    journals = []
    for row in billable:
        rate, fee = row["rate_tokens_per_period"], row["fee_tokens_per_period"]
        legs = [
            (row["caller_wallet_id"], rate), (row["callee_earnings_id"], fee - rate), (revenue["id"], -fee),
        ]  # fmt: skip
        key = f"call:{row['id']}:{row['periods_billed'] + 1}"
        journals.append((key, "call_debit", [leg for leg in legs if leg[1]]))
    postings = {row["id"]: posting for row, posting in zip(billable, await post(tx, journals), strict=True)}
    answers = []
    for row in due:
        posting = postings.get(row["id"])
        outcome = posting["outcome"] if posting else "outlived"
        if outcome in {"posted", "duplicate"}:
            change = {
                "periods_billed": row["periods_billed"] + 1,
                "tokens_spent": row["tokens_spent"] + row["rate_tokens_per_period"],
                "paid_through": row["paid_through"] + seconds(row["period_seconds"]),
            }
        else:
            reason = "insufficient_funds" if outcome == "insufficient_funds" else "failed"
            change = {"status": "ended", "end_reason": reason, "ended_at": row["paid_through"]}
        after = await _save(tx, row, change)
        earns = row["fee_tokens_per_period"] < row["rate_tokens_per_period"]
        posted = posting is not None and outcome == "posted"
        answers.append(after | {
            "outcome": outcome,
            "wallet_balance": posting["balances"][0] if posted and posting else None,
            "wallet_version": posting["versions"][0] if posted and posting else None,
            "earnings_balance": posting["balances"][1] if posted and posting and earns else None,
            "earnings_version": posting["versions"][1] if posted and posting and earns else None,
        })  # fmt: skip
    return answers


async def calls__due(tx: Transaction, limit: int) -> list[Row]:
    now = tx.db.clock()
    due = sorted((row for row in tx.rows("calls") if _is_due(row, now)), key=lambda row: row["paid_through"])
    return [{"id": row["id"]} for row in due[:limit]]


async def calls__next_due_in_s(tx: Transaction) -> list[Row]:
    due = [row["paid_through"] for row in tx.rows("calls") if row["status"] == "active"]
    return [{"s": (min(due) - tx.db.clock()).total_seconds() if due else None}]


async def calls__overdue_rings(tx: Transaction, limit: int) -> list[Row]:
    now = tx.db.clock()
    rung = [row for row in tx.rows("calls") if row["status"] == "ringing" and row["ring_expires_at"] <= now]
    return [{"id": row["id"]} for row in sorted(rung, key=lambda row: row["ring_expires_at"])[:limit]]


def _absent_since(row: Row) -> datetime:
    return min(at for at in (row["caller_absent_since"], row["callee_absent_since"]) if at is not None)


def _noted_absent(tx: Transaction) -> list[Row]:
    noted = [
        row for row in tx.rows("calls")
        if row["status"] != "ended" and (row["caller_absent_since"] or row["callee_absent_since"])
    ]  # fmt: skip
    return sorted(noted, key=_absent_since)


async def calls__overdue_absences(tx: Transaction, grace_s: int, limit: int) -> list[Row]:
    since = tx.db.clock() - seconds(grace_s)
    overdue = [row for row in _noted_absent(tx) if _absent_since(row) <= since]
    return [{name: row[name] for name in ("id", "caller_id", "callee_id")} for row in overdue[:limit]]


def _live(row: Row) -> Row:
    return {
        "id": row["id"], "caller_id": row["caller_id"], "callee_id": row["callee_id"],
        "caller_absent": row["caller_absent_since"] is not None,
        "callee_absent": row["callee_absent_since"] is not None,
    }  # fmt: skip


async def calls__absences(tx: Transaction, limit: int) -> list[Row]:
    return [_live(row) for row in _noted_absent(tx)[:limit]]


async def calls__live_page(tx: Transaction, after: UUID, limit: int) -> list[Row]:
    live = sorted({row["call_id"] for row in tx.rows("live") if row["call_id"] > after})[:limit]
    rows = [tx.get("calls", call_id) for call_id in live]
    return [_live(row) for row in rows if row is not None]


async def calls__mark_presence(
    tx: Transaction, ids: list[UUID], caller_absent: list[bool], callee_absent: list[bool]
) -> list[Row]:
    now = tx.db.clock()
    for call_id, caller, callee in sorted(zip(ids, caller_absent, callee_absent, strict=True)):
        row = await tx.hold("calls", call_id)
        if row is not None and row["status"] != "ended":
            tx.put("calls", call_id, row | {
                "caller_absent_since": (row["caller_absent_since"] or now) if caller else None,
                "callee_absent_since": (row["callee_absent_since"] or now) if callee else None,
            })  # fmt: skip
    return []


async def calls__mark_present(tx: Transaction, user: str) -> list[Row]:
    live = tx.get("live", user)
    row = await tx.hold("calls", live["call_id"]) if live else None
    if row is not None and row["status"] != "ended":
        side = "caller_absent_since" if row["caller_id"] == user else "callee_absent_since"
        tx.put("calls", row["id"], row | {side: None})
    return []


async def calls__live_calls_of(tx: Transaction, users: list[str]) -> list[Row]:
    live = [row for user in sorted(set(users)) if (row := tx.get("live", user)) is not None]
    return [{"user_id": row["user_id"]} | call for row in live if (call := tx.get("calls", row["call_id"])) is not None]


# -- idempotency keys --------------------------------------------------------------------------------------------------


async def keys__claim(
    tx: Transaction, user: str, key: str, request_hash: bytes, holder: UUID, hold_s: float, keep_s: int
) -> list[Row]:
    known = await tx.hold("keys", (user, key))
    if known is not None and (known["outcome"] is None or known["expires_at"] > tx.began):
        return []
    tx.put("keys", (user, key), {
        "request_hash": request_hash, "holder": holder, "held_until": tx.began + seconds(hold_s), "subject": None,
        "outcome": None, "expires_at": tx.began + seconds(keep_s),
    })  # fmt: skip
    return [{"holder": holder}]


async def keys__record(tx: Transaction, user: str, key: str) -> list[Row]:
    row = tx.get("keys", (user, key))
    if row is None:
        return []
    return [{
        "request_hash": row["request_hash"], "outcome": row["outcome"], "subject": row["subject"],
        "held": row["held_until"] > tx.began,
    }]  # fmt: skip


async def _change_key(tx: Transaction, user: str, key: str, change: Row, fits: Callable[[Row], bool]) -> Row | None:
    row = await tx.hold("keys", (user, key))
    if row is None or row["outcome"] is not None or not fits(row):
        return None
    tx.put("keys", (user, key), row | change)
    return row | change


async def keys__take_over(tx: Transaction, user: str, key: str, holder: UUID, hold_s: float) -> list[Row]:
    change = {"holder": holder, "held_until": tx.began + seconds(hold_s)}
    row = await _change_key(tx, user, key, change, lambda row: row["held_until"] <= tx.began)
    return [{"subject": row["subject"]}] if row else []


async def keys__hold(tx: Transaction, user: str, key: str, holder: UUID, hold_s: float) -> list[Row]:
    change = {"held_until": tx.began + seconds(hold_s)}
    row = await _change_key(tx, user, key, change, lambda row: row["holder"] == holder)
    return [{"subject": row["subject"]}] if row else []


async def keys__keep_jobs_away(tx: Transaction, purchase_id: UUID, hold_s: float) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    if row is not None and row["status"] not in FINISHED:
        later = max(row["next_check_at"], tx.began + seconds(hold_s))
        tx.put("purchases", purchase_id, row | {"next_check_at": later})
    return []


async def keys__set_subject(tx: Transaction, user: str, key: str, holder: UUID, subject: UUID) -> list[Row]:
    row = await _change_key(tx, user, key, {"subject": subject}, lambda row: row["holder"] == holder)
    return [{"true": True}] if row else []


async def keys__finish(tx: Transaction, user: str, key: str, holder: UUID, outcome: Row) -> list[Row]:
    change = {"outcome": outcome, "held_until": tx.began}
    row = await _change_key(tx, user, key, change, lambda row: row["holder"] == holder)
    return [{"true": True}] if row else []


async def keys__finish_subject(tx: Transaction, user: str, key: str, subject: UUID, outcome: Row) -> list[Row]:
    change = {"outcome": outcome, "held_until": tx.began}
    await _change_key(tx, user, key, change, lambda row: row["subject"] == subject)
    return []


async def keys__forget(tx: Transaction, user: str, key: str, holder: UUID) -> list[Row]:
    row = await tx.hold("keys", (user, key))
    if row is not None and row["holder"] == holder and row["outcome"] is None and row["subject"] is None:
        tx.put("keys", (user, key), None)
    return []


async def keys__forget_subject(tx: Transaction, user: str, key: str, subject: UUID) -> list[Row]:
    row = await tx.hold("keys", (user, key))
    if row is not None and row["subject"] == subject and row["outcome"] is None:
        tx.put("keys", (user, key), None)
    return []


# -- purchases ---------------------------------------------------------------------------------------------------------


async def payments__insert_purchase(
    tx: Transaction, purchase_id: UUID, user: str, key: str, cents: int, tokens: int, method: str, day: Any,
    check_in_s: float,
) -> list[Row]:  # fmt: skip
    row = {
        "id": purchase_id, "user_id": user, "idempotency_key": key, "amount_cents": cents, "tokens": tokens,
        "payment_method_id": method, "status": "claimed", "spend_day": day, "payment_intent_id": None,
        "decline_code": None, "failure": None, "created_at": tx.began, "finished_at": None,
        "next_check_at": tx.began + seconds(check_in_s), "checks": 0, "refunded_cents": 0, "disputed_cents": 0,
        "reversed_cents": 0, "reversed_tokens": 0, "owed_tokens": 0, "adjustments": 0,
    }  # fmt: skip
    await tx.hold("purchases", purchase_id)
    tx.put("purchases", purchase_id, row)
    return found(row)


async def payments__purchase(tx: Transaction, purchase_id: UUID) -> list[Row]:
    return found(tx.get("purchases", purchase_id))


async def payments__lock_purchase(tx: Transaction, purchase_id: UUID) -> list[Row]:
    return found(await tx.hold("purchases", purchase_id))


async def payments__purchase_of_payment(tx: Transaction, payment_id: str | None, named: UUID | None) -> list[Row]:
    for row in tx.rows("purchases"):
        if payment_id is not None and row["payment_intent_id"] == payment_id:
            return [{"id": row["id"]}]
    row = tx.get("purchases", named) if named else None
    return [{"id": row["id"]}] if row is not None and row["payment_intent_id"] is None else []


async def payments__save_purchase(
    tx: Transaction, purchase_id: UUID, status: Any, payment_id: str | None, decline_code: str | None,
    failure: str | None, check_in_s: float,
) -> list[Row]:  # fmt: skip
    row = await tx.hold("purchases", purchase_id)
    assert row is not None
    after = row | {
        "status": str(status), "payment_intent_id": payment_id, "decline_code": decline_code, "failure": failure,
        "finished_at": tx.began if str(status) in FINISHED else None, "next_check_at": tx.began + seconds(check_in_s),
    }  # fmt: skip
    tx.put("purchases", purchase_id, after)
    return found(after)


async def payments__save_reversal(
    tx: Transaction, purchase_id: UUID, refunded: int, disputed: int, cents: int, tokens: int, owed: int, number: int
) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    assert row is not None
    tx.put("purchases", purchase_id, row | {
        "refunded_cents": refunded, "disputed_cents": disputed, "reversed_cents": cents, "reversed_tokens": tokens,
        "owed_tokens": owed, "adjustments": number,
    })  # fmt: skip
    return []


async def payments__due_purchases(tx: Transaction, limit: int) -> list[Row]:
    due = [row for row in tx.rows("purchases") if _check_is_due(row, tx.began)]
    return [{"id": row["id"]} for row in sorted(due, key=lambda row: row["next_check_at"])[:limit]]


def _check_is_due(row: Row, now: datetime) -> bool:
    return bool(row["status"] not in FINISHED and row["next_check_at"] <= now)


async def payments__take_check(tx: Transaction, purchase_id: UUID, next_in_s: float) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    if row is None or not _check_is_due(row, tx.began):
        return []
    after = row | {"checks": row["checks"] + 1, "next_check_at": tx.began + seconds(next_in_s)}
    tx.put("purchases", purchase_id, after)
    return found(after | {"age": tx.began - row["created_at"]})


async def payments__check_again(tx: Transaction, purchase_id: UUID, in_s: float) -> list[Row]:
    row = await tx.hold("purchases", purchase_id)
    if row is not None and row["status"] not in FINISHED:
        tx.put("purchases", purchase_id, row | {"next_check_at": tx.began + seconds(in_s)})
    return []


async def payments__reserve_spend(tx: Transaction, user: str, cents: int, limit: int) -> list[Row]:
    day = tx.began.date()
    row = await tx.hold("spend", (user, day))
    spent = (row["spent_cents"] if row else 0) + cents
    if spent > limit:
        return []
    tx.put("spend", (user, day), {"spent_cents": spent})
    return [{"day": day}]


async def payments__spent_today(tx: Transaction, user: str) -> list[Row]:
    row = tx.get("spend", (user, tx.began.date()))
    tomorrow = tx.began.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return [{"spent_cents": row["spent_cents"] if row else 0, "resets_at": tomorrow}]


async def payments__change_spend(tx: Transaction, user: str, day: Any, by_cents: int) -> list[Row]:
    row = await tx.hold("spend", (user, day))
    assert row is not None
    spent = row["spent_cents"] + by_cents
    assert spent >= 0, "more is given back than was spent"
    tx.put("spend", (user, day), {"spent_cents": spent})
    return []


async def jobs__defer(tx: Transaction, _queue: str, task: str, arguments: list[str], in_s: float) -> list[Row]:
    for text in arguments:
        number = tx.db.next_number()
        due_at = tx.db.clock() + seconds(in_s)
        tx.put("jobs", number, {"id": number, "task": task, "args": json.loads(text), "due_at": due_at})
    return []


FILES = {
    "store": ("ledger.sql", "store.sql"), "calls": ("realtime.sql", "calls.sql"),
    "keys": ("realtime.sql", "idempotency.sql"), "payments": ("realtime.sql", "payments.sql"),
    "jobs": ("realtime.sql", "jobs.sql"),
}  # fmt: skip


def by_text() -> dict[str, Callable[..., Coroutine[Any, Any, list[Row]]]]:
    """The model of each query by the SQL the stores send; what they send and this does not know is an error."""
    known = {}
    for prefix, (package, file) in FILES.items():
        for name, text in load(package, file).items():
            model = globals().get(f"{prefix}__{name}")
            if model is not None:
                known[text] = model
    return known
