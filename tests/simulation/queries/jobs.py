"""The queries of `realtime/sql/jobs.sql`."""

from __future__ import annotations

import json

from tests.simulation.database import Row, Transaction
from tests.simulation.queries.rows import seconds


async def defer(tx: Transaction, _queue: str, task: str, arguments: list[str], in_s: float) -> list[Row]:
    for text in arguments:
        number = tx.db.next_number()
        due_at = tx.db.clock() + seconds(in_s)
        tx.put("jobs", number, {"id": number, "task": task, "args": json.loads(text), "due_at": due_at})
    return []
