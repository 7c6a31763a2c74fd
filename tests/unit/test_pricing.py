"""No token is lost or made by a split or a refund, whatever the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.domain.pricing import Split, split, unused, used_tokens

tokens = st.integers(1, 1_000_000)
percents = st.integers(0, 100)
periods = st.integers(1, 3600)
seconds = st.floats(0, 7200, allow_nan=False)


@given(tokens, percents)
def test_a_split_is_the_whole_and_the_fee_never_more_than_its_percent(amount: int, percent: int) -> None:
    parts = split(amount, percent)
    assert parts.earnings_tokens + parts.fee_tokens == amount
    assert 0 <= parts.fee_tokens * 100 <= amount * percent


@pytest.mark.parametrize(
    ("amount", "percent", "fee"), [(10, 20, 2), (1000, 20, 200), (9, 20, 1), (4, 20, 0), (1, 100, 1), (7, 0, 0)]
)
def test_the_fee_is_the_percent_rounded_down_and_the_rest_is_earned(amount: int, percent: int, fee: int) -> None:
    assert split(amount, percent) == Split(earnings_tokens=amount - fee, fee_tokens=fee)


@given(tokens, periods, seconds)
def test_used_time_costs_at_least_its_share_and_at_most_the_rate(rate: int, period_s: int, used_s: float) -> None:
    used = used_tokens(rate, period_s, used_s)
    assert min(rate, rate * min(used_s, period_s) / period_s) <= used + 1e-6
    assert 0 <= used <= rate


@given(tokens, percents, periods, seconds)
def test_what_goes_back_is_taken_from_both_sides_and_never_more_than_they_got(
    rate: int, percent: int, period_s: int, used_s: float
) -> None:
    back, paid = unused(rate, percent, period_s, used_s), split(rate, percent)
    assert 0 <= back.from_earnings_tokens <= paid.earnings_tokens
    assert 0 <= back.tokens - back.from_earnings_tokens <= paid.fee_tokens


@given(tokens, periods, st.integers(0, 3600))
def test_an_unused_period_goes_back_whole_and_a_used_one_not_at_all(rate: int, period_s: int, more_s: int) -> None:
    assert unused(rate, 20, period_s, 0).tokens == rate
    assert unused(rate, 20, period_s, period_s + more_s).tokens == 0
