"""`python -m realtime` with shorter pauses before it looks after what a killed process left."""

from __future__ import annotations

import os
import sys

from realtime.__main__ import main
from realtime.services import charging, idempotency, purchase_records, purchase_recovery, refunds, stripe_events


def hasten() -> None:
    idempotency.HOLD_S, idempotency.HOLD_AGAIN_AFTER_S = 1.5, 0.5
    purchase_records.FIRST_CHECK_S = 2.5
    purchase_records.PENDING_CHECK_S = 0.5
    purchase_recovery.CHECK_PAUSES_S = (1, 1, 1, 1, 2)
    refunds.FIRST_CHECK_S = 2.5
    stripe_events.RETRY_IN_S = 0.5
    charging.ATTEMPT_S = float(os.environ.get("ATTEMPT_S", charging.ATTEMPT_S))


if __name__ == "__main__":
    hasten()
    sys.exit(main())
