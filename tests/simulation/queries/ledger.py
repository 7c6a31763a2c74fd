"""The queries of `ledger/sql/store.sql`."""

from __future__ import annotations

from typing import Any

from tests.simulation.database import Database, Row, Transaction
from tests.simulation.queries.rows import found

CREDIT_NORMAL = {"wallet", "earnings", "platform_revenue", "token_sales"}
NEVER_BELOW_ZERO = {"wallet", "earnings"}
PLATFORM = (
    "granted_tokens", "platform_revenue", "stripe_clearing", "stripe_losses", "token_sales", "tokens_issued",
)  # fmt: skip


def make_platform_accounts(db: Database) -> None:
    for kind in PLATFORM:
        _new_account(db, db.table("accounts"), db.table("account_ids"), None, kind)


def _new_account(db: Database, accounts: Any, ids: Any, owner: str | None, kind: str) -> int:
    number = db.next_number()
    accounts[number] = {"id": number, "owner_id": owner, "kind": kind, "balance": 0, "version": 0}
    ids[owner, kind] = {"id": number}
    return number


async def ensure_accounts(tx: Transaction, owners: list[str], kinds: list[str]) -> list[Row]:
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


async def platform_account(tx: Transaction, kind: str) -> list[Row]:
    return found(tx.get("account_ids", (None, kind)))


async def balance(tx: Transaction, owner: str, kind: str) -> list[Row]:
    known = tx.get("account_ids", (owner, kind))
    account = tx.get("accounts", known["id"]) if known else None
    return [{"balance": account["balance"], "version": account["version"]}] if account else []


async def audit(_tx: Transaction, *_arguments: Any) -> list[Row]:
    return []


async def post(
    tx: Transaction, keys: list[str], types: list[Any], details: list[str], ordinals: list[int], accounts: list[int],
    amounts: list[int], _actor: str,
) -> list[Row]:  # fmt: skip
    journals = [
        (key, str(kind), [(a, n) for o, a, n in zip(ordinals, accounts, amounts, strict=True) if o == ordinal])
        for ordinal, (key, kind) in enumerate(zip(keys, types, strict=True), start=1)
    ]
    return await post_journals(tx, journals)


async def post_journals(tx: Transaction, journals: list[tuple[str, str, list[tuple[int, int]]]]) -> list[Row]:
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
