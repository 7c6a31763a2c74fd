"""`python -m realtime` on a machine whose clock is CLOCK_OFFSET_S off; it looks after what was left behind soon."""

from __future__ import annotations

import datetime
import os
import sys
import time

import realtime.main
import realtime.worker
from realtime.__main__ import main
from tests.payments.hasty import hasten

_time = time.time


class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime.fromtimestamp(time.time(), tz)


def skew(offset_s: float) -> None:
    """All modules of ours, and every library that asks `time.time`."""
    time.time = lambda: _time() + offset_s
    for name, module in list(sys.modules.items()):
        if name.startswith("realtime.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Skewed  # type: ignore[attr-defined]


if __name__ == "__main__":
    assert realtime.main
    assert realtime.worker
    hasten()
    skew(float(os.environ["CLOCK_OFFSET_S"]))
    sys.exit(main())
