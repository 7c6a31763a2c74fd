"""Percentiles of measured durations."""

from __future__ import annotations

from collections.abc import Sequence


def percentiles_ms(durations_s: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the longest, in milliseconds; empty for no durations."""
    if not durations_s:
        return {}
    ordered = sorted(durations_s)
    at = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in SHARES.items()}
    return {name: round(1000 * value, 3) for name, value in at.items()}


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
