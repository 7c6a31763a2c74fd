"""What must hold: after each commit, each charge and each answer, and of the books when all has come to rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from realtime.domain import call as call_domain
from realtime.domain import errors, transitions
from realtime.domain import purchase as purchase_domain
from tests.simulation.database import Key, Row
from tests.simulation.provider import HOLDS_MONEY, Event, Intent
from tests.simulation.queries import ledger
from tests.simulation.rules import PERIOD_S, RATE, USERS, Broken, must

if TYPE_CHECKING:
    from tests.simulation.history import History


Expected = Counter[tuple[str, str | None]]
"""Balances by the account's kind and owner."""


class Books:
    def __init__(self, history: History) -> None:
        self._history = history
        self._stood: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self.begun = dict.fromkeys(USERS, 0)
        """Tokens each user was given before anything happened."""

    def _table(self, name: str) -> dict[Any, Row]:
        return self._history.db.table(name)

    def committed(self, changes: dict[Key, tuple[Row | None, Row | None]]) -> None:
        try:
            for (table, key), (before, after) in changes.items():
                check = getattr(self, f"_check_{table}", None)
                if check is not None:
                    check(key, before, after)
        except AssertionError as error:
            self._history.fail(error)
            raise

    def _check_accounts(self, _key: int, _before: Row | None, after: Row) -> None:
        must(after["balance"] >= 0 or after["kind"] not in ledger.NEVER_BELOW_ZERO, f"below zero: {after}")

    def check_told(self, user: str, kind: str, version: int, balance: int) -> None:
        if self._stood[user, kind].get(version) != balance:
            self._history.fail(Broken(f"{user} was told a {kind} of {balance} at version {version}, which never was"))

    def _check_journals(self, key: str, before: Row | None, after: Row) -> None:
        must(before is None, f"{key} was posted twice")
        sums: dict[bool, int] = defaultdict(int)
        for account_id, amount in after["content"][1]:
            sums[self._table("accounts")[account_id]["kind"] in {"stripe_clearing", "token_sales"}] += amount
        must(not any(sums.values()), f"{key} is not balanced")
        for account_id, (version, balance) in after["left"].items():
            account = self._table("accounts")[account_id]
            self._stood[account["owner_id"], account["kind"]][version] = balance

    def _check_calls(self, call_id: UUID, before: Row | None, after: Row) -> None:
        now = self._history.db.clock()
        if before is not None and before["status"] != after["status"]:
            reached = {t.status for t in transitions.TRANSITIONS[transitions.Status(before["status"])].values()}
            must(after["status"] in reached, f"{before['status']} to {after['status']}")
        must(before is None or before["status"] != "ended", f"a call changed after its end: {after}")
        if after["started_at"] is not None:
            billed = after["periods_billed"]
            must(after["paid_through"] == after["started_at"] + timedelta(seconds=billed * PERIOD_S), "paid time")
            for period in (billed, billed + 1):
                there = f"call:{call_id}:{period}" in self._table("journals")
                must(there == (0 < period <= billed), f"period {period} of {billed} debited: {there}")
            last_began = after["started_at"] + timedelta(seconds=(billed - 1) * PERIOD_S)
            must(billed == 0 or last_began <= now, f"billed before it began: {after}")
        if after["status"] == "active":
            must(after["periods_billed"] > 0, "active and not paid")

    def _check_live(self, user: str, _before: Row | None, after: Row | None) -> None:
        call = self._table("calls").get(after["call_id"]) if after else None
        must(call is None or call["status"] != "ended" or after is None, f"{user} is held by a call that has ended")

    def _check_purchases(self, purchase_id: UUID, before: Row | None, after: Row) -> None:
        if before is not None and before["status"] != after["status"]:
            table = purchase_domain.TRANSITIONS[purchase_domain.Status(before["status"])]
            must(after["status"] in {t.status for t in table.values()}, f"{before['status']} to {after['status']}")
        credited = f"purchase:{purchase_id}" in self._table("journals")
        must(credited == (after["status"] == "succeeded"), f"credited: {credited}, {after['status']}")
        named = before["payment_intent_id"] if before else None
        must(named in {None, after["payment_intent_id"]}, "another payment was named")
        self._check_reversals(after)

    def _check_reversals(self, row: Row) -> None:
        """What was taken back is booked, no more than the provider took, and each part of it once."""
        one = self._history.provider.intents.get(row["payment_intent_id"])
        held_cents = sum(dispute.cents for dispute in one.disputes if dispute.held_once) if one else 0
        must(row["refunded_cents"] <= (one.refunded_cents if one else 0), f"not paid back yet: {row}")
        must(row["disputed_cents"] <= held_cents, f"disputes never held as much: {row}")
        taken_cents = min(row["amount_cents"], row["refunded_cents"] + row["disputed_cents"])
        due_cents = taken_cents if row["status"] == "succeeded" else 0
        must(row["reversed_cents"] == due_cents, f"{due_cents} are to be booked as taken back: {row}")
        must(row["reversed_tokens"] == row["tokens"] * due_cents // row["amount_cents"], f"tokens: {row}")
        must(0 <= row["owed_tokens"] <= row["reversed_tokens"], f"owed: {row}")
        booked: Counter[str] = Counter()
        for number in range(1, row["adjustments"] + 1):
            for account_id, amount in self._table("journals")[f"purchase:{row['id']}:reversal:{number}"]["content"][1]:
                booked[self._table("accounts")[account_id]["kind"]] += amount
        must(-booked["stripe_clearing"] == row["reversed_cents"], f"cents booked {booked}: {row}")
        must(-booked["tokens_issued"] == row["reversed_tokens"], f"tokens booked {booked}: {row}")
        must(booked["receivable"] == row["owed_tokens"], f"booked as owed {booked}: {row}")

    def _check_refund_orders(self, purchase_id: UUID, before: Row | None, after: Row) -> None:
        must(before is None or before["status"] != "done" or after["status"] == "done", f"undone: {after}")
        if after["status"] == "done":
            row = self._table("purchases")[purchase_id]
            one = self._history.provider.intents[row["payment_intent_id"]]
            must(one.refunded_cents == row["amount_cents"], f"said to be done, and is not: {after}")

    def _check_disputes(self, dispute_id: str, before: Row | None, after: Row) -> None:
        must(before is None or before["status"] == "open", f"decided already: {before}, {after}")
        [one] = [one for one in self._history.provider.disputes() if one.id == dispute_id]
        ended = {"lost": "lost", "won": "won", "warning_closed": "won"}.get(one.status)
        must(after["status"] in {"open", ended}, f"{after}, at the provider {one}")

    def _check_events(self, event_id: str, before: Row | None, after: Row) -> None:
        must(before is None or before["applied_at"] is None, f"{event_id} took effect again")

    def check_event_is_kept(self, event: Event) -> None:
        """It was answered 200: nobody will send it again."""
        if event.id not in self._table("events"):
            self._history.fail(Broken(f"{event.id} was answered and not kept"))

    def _check_spend(self, _key: Any, _before: Row | None, after: Row) -> None:
        must(after["spent_cents"] >= 0, "less than nothing spent")

    def check_charges(self, purchase_id: UUID) -> None:
        charged = self._history.provider.charged(purchase_id)
        if sum(one.charges for one in charged) > 1:
            self._history.fail(Broken(f"charged twice: {charged}"))
        row = self._table("purchases").get(purchase_id)
        if charged and row is not None and row["payment_intent_id"] != charged[0].payment.id:
            self._history.fail(Broken("a payment was charged that is not in its purchase's row"))

    def check_answer(self, user: str, key: str, answer: Any) -> None:
        """What a buyer is told holds."""
        if isinstance(answer, errors.Refused) or answer.outcome.get("status") != "succeeded":
            return
        row = self._table("purchases").get(UUID(answer.outcome["purchaseId"]))
        if row is None or row["status"] != "succeeded" or (row["user_id"], row["idempotency_key"]) != (user, key):
            self._history.fail(Broken(f"{user} was told of a success that is none"))

    def check_refund_answer(self, purchase_id: UUID, answer: Any) -> None:
        """What an admin is told holds."""
        if isinstance(answer, BaseException) or answer.outcome.get("status") != "refunded":
            return
        row = self._table("purchases")[purchase_id]
        if not answer.outcome["refundedCents"] == row["refunded_cents"] == row["amount_cents"]:
            self._history.fail(Broken(f"told of a refund that is none: {answer}, {row}"))

    def check_rest(self) -> None:
        """Everything has come to rest: who owes whom what, to the token and the cent."""
        try:
            expected: Expected = Counter({("wallet", user): tokens for user, tokens in self.begun.items()})
            expected["granted_tokens", None] = sum(self.begun.values())
            self._check_calls_at_rest(expected)
            self._check_purchases_at_rest(expected)
            self._check_reversals_at_rest()
            for account in self._table("accounts").values():
                balance = expected[account["kind"], account["owner_id"]]
                must(account["balance"] == balance, f"{account}, not {balance}")
        except AssertionError as error:
            self._history.fail(error)

    def _check_calls_at_rest(self, expected: Expected) -> None:
        for call in self._table("calls").values():
            must(call["status"] == "ended", f"never ended: {call}")
            paid, shared = self._owed(call)
            must(call["tokens_spent"] == paid, f"spent {call['tokens_spent']}, owed {paid}: {call}")
            given_back = call["refund_unused_seconds"] and call["periods_billed"] > 0
            unpaid = given_back or call["end_reason"] in {"insufficient_funds", "failed"}
            put_out = [self._history.put_out[f"call_{call['id'].hex}", uid] > 0 for uid in (1, 2)]
            must(put_out == [unpaid, unpaid], f"put out of the channel: {put_out}, {call}")
            expected["wallet", call["caller_id"]] -= paid
            expected["earnings", call["callee_id"]] += shared
            expected["platform_revenue", None] += paid - shared
        must(not self._table("live"), "somebody is held by no call")

    def _check_purchases_at_rest(self, expected: Expected) -> None:
        charged_keys: set[tuple[str, str]] = set()
        spent: Counter[Any] = Counter()
        for purchase in self._table("purchases").values():
            charged = self._history.provider.charged(purchase["id"])
            charges = sum(one.charges for one in charged)
            must(charges == (purchase["status"] == "succeeded"), f"{charges} charges: {purchase}")
            if not charged:
                continue
            by_key = purchase["user_id"], purchase["idempotency_key"]
            must(by_key not in charged_keys, f"{by_key} was charged twice")
            charged_keys.add(by_key)
            spent[purchase["user_id"], purchase["spend_day"]] += purchase["amount_cents"]
            self._expect_purchase(purchase, charged[0], expected)
        for day, row in self._table("spend").items():
            must(row["spent_cents"] == spent[day], f"{day}: {row['spent_cents']} of the limit held, {spent[day]} spent")

    @staticmethod
    def _expect_purchase(row: Row, one: Intent, expected: Expected) -> None:
        """What it brought, less what the provider holds or has paid back of it; of that, what was spent is owed."""
        taken_cents = min(row["amount_cents"], one.refunded_cents + one.disputed_cents)
        tokens = row["tokens"] - row["tokens"] * taken_cents // row["amount_cents"]
        for kind in ("stripe_clearing", "token_sales"):
            expected[kind, None] += row["amount_cents"] - taken_cents
        expected["tokens_issued", None] += tokens
        expected["wallet", row["user_id"]] += tokens + row["owed_tokens"]
        expected["receivable", row["user_id"]] += row["owed_tokens"]

    def _check_reversals_at_rest(self) -> None:
        told = {event.id for event in self._history.provider.events}
        must(set(self._table("events")) == told, "an event is lost, or one nobody sent was kept")
        disputes = {one.id: one for one in self._history.provider.disputes()}
        for dispute_id, row in self._table("disputes").items():
            held = disputes[dispute_id].status in HOLDS_MONEY
            must((row["status"] != "won") == held, f"{row}, at the provider {disputes[dispute_id]}")

    def _owed(self, row: Row) -> tuple[int, int]:
        """What a call costs, and what of it is the callee's, by its times alone."""
        if row["started_at"] is None:
            return 0, 0
        whole, rest = divmod((row["ended_at"] - row["started_at"]).total_seconds(), PERIOD_S)
        unpaid = row["end_reason"] in {"insufficient_funds", "failed"}
        must(not unpaid or rest == 0, f"an unpaid call ends where it was paid to: {row}")
        periods = int(whole) if unpaid else int(whole) + 1
        must(row["periods_billed"] == periods, f"{periods} periods began: {row}")
        fee = RATE * self._history.settings.platform_fee_percent // 100
        back = (0, 0)
        if row["refund_unused_seconds"] and not unpaid and periods:
            unused = call_domain.pricing.unused(RATE, self._history.settings.platform_fee_percent, PERIOD_S, rest)
            back = unused.tokens, unused.from_earnings_tokens
        return periods * RATE - back[0], periods * (RATE - fee) - back[1]
