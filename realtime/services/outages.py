"""A server that is away, said once when it goes and once when it is back: however often it is met, it is one fact."""

from __future__ import annotations

import time

import structlog

from realtime.adapters.logs import in_words

log = structlog.get_logger()


class Outage:
    def __init__(self, *, waits: str, again: str) -> None:
        self._waits, self._again = waits, again
        self._since: float | None = None

    def met(self, error: BaseException) -> None:
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._waits, error=in_words(error))

    def over(self) -> None:
        """What was waited for has answered."""
        if self._since is not None:
            log.info(self._again, after_s=round(time.monotonic() - self._since, 1))
            self._since = None
