"""How much Hypothesis tries: a fair share of an ordinary run, twenty times that with HYPOTHESIS_PROFILE=thorough."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 1


def examples(ordinary: int, steps: int = 50) -> settings:
    """Settings for tests on real servers, whose speed says nothing of the test."""
    return settings(
        max_examples=ordinary * TIMES,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
