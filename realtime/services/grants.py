"""Tokens given away by an admin: one journal for each key, and the answer kept in its transaction."""

from __future__ import annotations

from realtime.adapters.identifiers import new_id
from realtime.domain.call import Account
from realtime.domain.trust import Identity
from realtime.services import idempotency
from realtime.services.calls import Transactions
from realtime.services.idempotency import Claim, Idempotency, Kept, Keyed
from realtime.services.money_limits import MoneyLimits, Operation
from realtime.services.news import News
from realtime.services.pushes import Pushes
from realtime.services.wallets import Wallets

OPERATION = "grant"


class Grants:
    def __init__(
        self, *, db: Transactions, wallets: Wallets, limits: MoneyLimits, idempotency: Idempotency, out: Pushes
    ) -> None:
        self._db = db
        self._wallets = wallets
        self._limits = limits
        self._idempotency = idempotency
        self._out = out

    async def give(self, operation: Operation, admin: Identity, user_id: str, tokens: int, reason: str) -> Kept:
        """Give tokens once, however often this is asked. Raises the idempotency errors and LimiterUnavailable."""
        payload = {"userId": user_id, "tokens": tokens, "reason": reason}
        request = Keyed(operation.user_id, operation.key, OPERATION, payload, operation.keep_s)

        async def carry_out(claim: Claim) -> idempotency.Outcome:
            await self._limits.answers()
            news = News()
            async with self._db.begin() as conn:
                account = await self._wallets.grant(conn, admin, user_id, tokens, reason, str(new_id()), news)
                outcome = _answer(user_id, tokens, account)
                await self._idempotency.keep(conn, claim, outcome)
            await news.tell(self._out)
            return outcome

        return await self._idempotency.once(request, carry_out)


def _answer(user_id: str, tokens: int, account: Account) -> idempotency.Outcome:
    return {"userId": user_id, "tokens": tokens, "balance": account.balance_tokens, "version": account.version}
