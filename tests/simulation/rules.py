"""What everybody in a history goes by: who there is, how long things take, and how a broken rule is said."""

from __future__ import annotations

from realtime import config

USERS = ("ann", "bob", "cat")
ADMINS = ("root", "toor")
PROCESSES = 2
PERIOD_S, GRACE_S, RING_S, AWAY_S = 7, 5, 10, 8
RATE, DAILY_LIMIT_CENTS = 10, 2_000
LASTS_S = 24.0
SLOWEST_S = 8.0
RESTS_FOR_S = 3 * 3600.0
JOBS_COME_AFTER_S = {"refunds.FIRST_CHECK_S": 9.0, "stripe_events.RETRY_IN_S": 6.0}
METER_EVERY_S, SWEEP_EVERY_S, JOBS_EVERY_S = 2.0, 4.0, 1.0

KILL, BREAK, SLOW = 0.003, 0.01, 0.03
"""The chances at each step: the process dies, the connection goes, seconds pass."""

SETTINGS = {
    rounding: config.load(
        _env_file=None, billing_period_seconds=PERIOD_S, call_grace_seconds=GRACE_S, ring_timeout_seconds=RING_S,
        reconnect_grace_seconds=AWAY_S, default_rate_tokens_per_period=RATE, billing_rounding=rounding,
        stripe_webhook_secret="whsec_simulated",
    )
    for rounding in ("period", "second")
}  # fmt: skip


class Broken(AssertionError):
    """An invariant does not hold."""


class Lost(Exception):
    """The process died under the request: its client does not know what became of it."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)
