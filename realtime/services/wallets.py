"""What users hold: wallets and earnings, their histories, and grants by an admin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger import store
from ledger.journals import HistoryEntry, Journal, Outcome, TransactionType, credit, debit
from realtime.adapters import calls_store
from realtime.domain import errors
from realtime.domain.call import Account
from realtime.domain.trust import Identity
from realtime.services import pushes
from realtime.services.calls import Transactions
from realtime.services.news import News
from realtime.services.pushes import Pushes

UNUSED = Account(balance_tokens=0, version=0)
"""Where an account stands that was never used."""


class Wallets:
    def __init__(self, *, db: Transactions, out: Pushes, default_rate_tokens_per_period: int) -> None:
        self._db = db
        self._out = out
        self._default_rate = default_rate_tokens_per_period

    async def wallet_of(self, user_id: str) -> Account:
        return await self._account(user_id, "wallet")

    async def wallets_of(self, user_ids: Sequence[str]) -> dict[str, Account]:
        async with self._db.connection() as conn:
            held = await store.balances(conn, user_ids, "wallet")
        return {user: Account(held[user].balance, held[user].version) if user in held else UNUSED for user in user_ids}

    async def earnings_of(self, user_id: str) -> Account:
        return await self._account(user_id, "earnings")

    async def _account(self, user_id: str, kind: str) -> Account:
        """Where an account stands; one that was never used holds nothing, at version 0."""
        async with self._db.connection() as conn:
            now = await store.balance(conn, user_id, kind)
        return Account(now.balance, now.version)

    async def history(self, user_id: str, before: int | None, limit: int) -> list[HistoryEntry]:
        """The wallet's entries, newest first, before the one of the journal with that id."""
        async with self._db.connection() as conn:
            wallet_id = await store.account_id(conn, user_id, "wallet")
            return [] if wallet_id is None else await store.history(conn, wallet_id, before=before, limit=limit)

    async def rate_of(self, user_id: str) -> int:
        async with self._db.connection() as conn:
            return await calls_store.rate_of(conn, user_id, self._default_rate)

    async def set_rate(self, user_id: str, tokens_per_period: int) -> None:
        """What a period of one's own calls costs, from the next call on."""
        async with self._db.connection() as conn:
            await calls_store.set_rate(conn, user_id, tokens_per_period)
        await self._out.emit_many(pushes.invalidate([user_id], ["me"]))

    async def grant(
        self, conn: Any, admin: Identity, user_id: str, tokens: int, reason: str, key: str, news: News
    ) -> Account:
        """Give tokens away inside the transaction on `conn`; the caller tells the news after its commit."""
        [wallet_id] = await store.ensure_accounts(conn, [(user_id, "wallet")])
        granted_id = await store.platform_account(conn, "granted_tokens")
        journal = Journal(
            key=f"grant:{key}",
            type=TransactionType.GRANT,
            legs=(debit(granted_id, tokens), credit(wallet_id, tokens)),
            details={"reason": reason, "by": admin.user_id},
        )
        [posting] = await store.post(conn, [journal], actor=admin.user_id)
        if posting.outcome is not Outcome.POSTED:
            raise errors.Unavailable(f"the grant was not posted: {posting.outcome}")
        _, wallet = posting.legs
        account = pushes.account_after(wallet)
        news.line("tokens granted", user_id=user_id, tokens=tokens, by=admin.user_id, journal_id=posting.journal_id)
        news.push(pushes.wallet_changed(user_id, account, delta=tokens, reason="grant"))
        return account
