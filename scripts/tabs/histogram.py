"""Durations as counts in buckets that grow by 2 %: small, and added up over processes without losing percentiles."""

from __future__ import annotations

import math
from collections import Counter

GROWTH = 1.02
LEAST_S = 1e-5
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
_LOG = math.log(GROWTH)


class Histogram:
    def __init__(self, buckets: dict[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    def __len__(self) -> int:
        return sum(self.buckets.values())

    def add(self, seconds: float) -> None:
        self.buckets[max(0, math.ceil(math.log(max(seconds, LEAST_S) / LEAST_S) / _LOG))] += 1

    def merge(self, other: Histogram) -> None:
        self.buckets.update(other.buckets)

    def percentiles_ms(self) -> dict[str, float]:
        """Empty when nothing was measured."""
        total = len(self)
        found: dict[str, float] = {}
        seen = 0
        wanted = list(SHARES.items()) if total else []
        for bucket, count in sorted(self.buckets.items()):
            seen += count
            while wanted and seen >= wanted[0][1] * total:
                found[wanted.pop(0)[0]] = round(1000 * LEAST_S * GROWTH**bucket, 3)
        return found

    def curve_ms(self) -> list[tuple[float, float]]:
        """Points of the cumulative distribution: milliseconds, and the share that took no longer."""
        total, seen, points = len(self), 0, []
        for bucket, count in sorted(self.buckets.items()):
            seen += count
            points.append((1000 * LEAST_S * GROWTH**bucket, seen / total))
        return points

    def to_json(self) -> dict[str, int]:
        return {str(bucket): count for bucket, count in self.buckets.items()}

    @classmethod
    def from_json(cls, buckets: dict[str, int]) -> Histogram:
        return cls({int(bucket): count for bucket, count in buckets.items()})
