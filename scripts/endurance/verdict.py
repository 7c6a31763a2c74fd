"""Whether a series of samples stays as it was, or grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP_SHARE = 0.25
"""Of the run: caches, pools and rings fill, tabs and calls come up to their number."""
GROWTH_SHARE = 0.10


@dataclass(frozen=True)
class Trend:
    first_third: float
    last_third: float
    slope_per_minute: float
    flat: bool


def trend(at_s: Sequence[float], values: Sequence[float], allowed: float, *, warm_up_s: float) -> Trend:
    """Of what was seen after the warm-up. It grows where the last third lies above the first by more than a tenth and
    more than `allowed`, and a straight line through all of it rises as far; one wave does neither for long."""
    seen = [(at, value) for at, value in zip(at_s, values, strict=True) if at >= warm_up_s]
    if len(seen) < 3:
        raise ValueError("fewer than three samples after the warm-up")
    third = len(seen) // 3
    first = sum(value for _, value in seen[:third]) / third
    last = sum(value for _, value in seen[-third:]) / third
    slope = _slope(seen)
    limit = max(allowed, GROWTH_SHARE * first)
    grows = last - first > limit and slope * (seen[-1][0] - seen[0][0]) > limit
    return Trend(first, last, 60 * slope, flat=not grows)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares, a second."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
