"""Calls to vendors, seen where they leave this process, whatever client makes them."""

from __future__ import annotations

import functools
import inspect
import time
from typing import Any

from opentelemetry.trace import SpanKind

from realtime.adapters.metrics import Metrics
from realtime.adapters.tracing import Tracing


class Traced:
    """Everything `client` has; its coroutine methods are spans of calls to `vendor`.

    With `metrics` they are counted too, by outcome: `ok`, or the name of the exception's class, of which a client has a
    handful. A client that counts its requests itself does without.
    """

    def __init__(self, vendor: str, client: Any, tracing: Tracing, metrics: Metrics | None = None) -> None:
        self._vendor, self._client, self._tracing, self._metrics = vendor, client, tracing, metrics

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._traced(name, found) if inspect.iscoroutinefunction(found) else found

    def _traced(self, name: str, method: Any) -> Any:
        @functools.wraps(method)
        async def traced(*args: Any, **kwargs: Any) -> Any:
            started, outcome = time.perf_counter(), "ok"
            with self._tracing.step(f"{self._vendor} {name}", SpanKind.CLIENT, {"peer.service": self._vendor}):
                try:
                    return await method(*args, **kwargs)
                except BaseException as error:
                    outcome = type(error).__name__
                    raise
                finally:
                    if self._metrics is not None:
                        self._metrics.vendor_request(self._vendor, name, outcome, time.perf_counter() - started)

        return traced
