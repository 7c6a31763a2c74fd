"""Calls to vendors, timed and traced where they leave this process, whatever client makes them."""

from __future__ import annotations

import functools
import inspect
import time
from typing import Any

from opentelemetry.trace import SpanKind

from realtime.adapters.metrics import Metrics
from realtime.adapters.tracing import Tracing


class Measured:
    """Everything `client` has; its coroutine methods are counted as calls to `vendor`, by what came of them.

    The outcome is `ok` or the name of the exception's class, of which a client has a handful.
    """

    def __init__(self, vendor: str, client: Any, metrics: Metrics, tracing: Tracing) -> None:
        self._vendor, self._client, self._metrics, self._tracing = vendor, client, metrics, tracing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._measured(name, found) if inspect.iscoroutinefunction(found) else found

    def _measured(self, name: str, method: Any) -> Any:
        @functools.wraps(method)
        async def measured(*args: Any, **kwargs: Any) -> Any:
            started, outcome = time.perf_counter(), "ok"
            with self._tracing.step(f"{self._vendor} {name}", SpanKind.CLIENT, {"peer.service": self._vendor}):
                try:
                    return await method(*args, **kwargs)
                except BaseException as error:
                    outcome = type(error).__name__
                    raise
                finally:
                    self._metrics.vendor_request(self._vendor, name, outcome, time.perf_counter() - started)

        return measured
