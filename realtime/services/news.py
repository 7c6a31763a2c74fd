"""What is said once a transaction has committed: to browsers, and in the log.

Inside a transaction news is gathered and not told: what is rolled back never happened, and nobody may read that it did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from realtime.services.pushes import Push, Pushes

log = structlog.get_logger()


@dataclass(slots=True)
class News:
    pushes: list[Push] = field(default_factory=list)
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def push(self, pushes: Iterable[Push]) -> None:
        self.pushes += pushes

    def line(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    async def tell(self, out: Pushes) -> None:
        """After the commit."""
        for event, facts in self.lines:
            log.info(event, **facts)
        if self.pushes:
            await out.emit_many(self.pushes)
