"""What a call costs and who gets it, in whole tokens.

A call is paid in periods. Each period costs the call's frozen rate, split between the callee and the platform so that
the two parts always add up to it. The split is computed here once, when the call is made, and frozen into its row:
the meter's SQL only moves the frozen numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Split:
    """How a sum of tokens is shared; `earnings_tokens + fee_tokens` is the whole sum."""

    earnings_tokens: int
    fee_tokens: int


def split(tokens: int, fee_percent: int) -> Split:
    """Share `tokens` between callee and platform; what does not divide goes to the callee, so no token is lost."""
    fee = tokens * fee_percent // 100
    return Split(earnings_tokens=tokens - fee, fee_tokens=fee)


def used_tokens(rate_tokens_per_period: int, period_s: int, used_s: float) -> int:
    """The price of `used_s` seconds of one period: whole seconds and tokens, both rounded up, at most the rate."""
    whole_seconds = min(period_s, max(0, -int(-used_s // 1)))
    return -(-rate_tokens_per_period * whole_seconds // period_s)


@dataclass(frozen=True, slots=True)
class Unused:
    """What goes back to the caller when the last period was not used up; what is not from earnings is from the fee."""

    tokens: int
    from_earnings_tokens: int


NOTHING_UNUSED = Unused(0, 0)


def unused(rate_tokens_per_period: int, fee_percent: int, period_s: int, used_s: float) -> Unused:
    """Price the last period by the second.

    Earlier periods were used whole, so price(total elapsed) − already posted is the same number: rounding by period
    and rounding over the whole call cannot disagree. Neither part is ever negative, since `split` is monotone.
    """
    used = used_tokens(rate_tokens_per_period, period_s, used_s)
    paid_split, used_split = split(rate_tokens_per_period, fee_percent), split(used, fee_percent)
    return Unused(
        tokens=rate_tokens_per_period - used,
        from_earnings_tokens=paid_split.earnings_tokens - used_split.earnings_tokens,
    )
