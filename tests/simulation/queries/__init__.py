"""What the named queries do, on the model of `database.py`. Each answers rows as its SQL does, in its SQL's order.

A module for each of the services' `.sql` files (two for that of payments); a function for each query, by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ledger.sql import load
from tests.simulation.database import Row
from tests.simulation.queries import calls, jobs, keys, ledger, purchases, reversals

FILES = (
    (ledger, "ledger.sql", "store.sql"), (calls, "realtime.sql", "calls.sql"),
    (keys, "realtime.sql", "idempotency.sql"), (purchases, "realtime.sql", "payments.sql"),
    (reversals, "realtime.sql", "payments.sql"), (jobs, "realtime.sql", "jobs.sql"),
)  # fmt: skip


def by_text() -> dict[str, Callable[..., Coroutine[Any, Any, list[Row]]]]:
    """The model of each query by the SQL the stores send; what they send and this does not know is an error."""
    known = {}
    for module, package, file in FILES:
        for name, text in load(package, file).items():
            model = vars(module).get(name)
            if model is not None:
                known[text] = model
    return known
