"""What is measured, by name and unit, and the Prometheus text of it.

With one process the values are its own. With several behind the one port, whoever starts them names a directory in
PROMETHEUS_MULTIPROC_DIR before they do: each process writes its values to files there and a scrape of any of them reads
all (prometheus-client's multiprocess mode). Counters of a process that has ended stay counted; its gauges go when the
one who started it calls `forget_process`.

Labels come from tables of this program (route templates, event names, refusal codes), never from what a client sends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PAYMENT_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0)
LAG_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
CALLS = (1, 2, 5, 10, 20, 50, 100, 200, 500)

DISCONNECT_REASONS = frozenset(
    {"client disconnect", "server disconnect", "ping timeout", "transport close", "transport error"}
)


@contextmanager
def shared_directory(environment: dict[str, str]) -> Iterator[None]:
    """Name a fresh directory in `environment` for the processes started with it; it goes when this block ends."""
    path = tempfile.mkdtemp(prefix="callmeter-metrics-")
    environment[DIRECTORY] = path
    try:
        yield
    finally:
        environment.pop(DIRECTORY, None)
        shutil.rmtree(path, ignore_errors=True)


def forget_process(pid: int, directory: str | os.PathLike[str]) -> None:
    """A process that shared `directory` has ended: its gauges are nobody's now."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    mark_process_dead(pid, os.fspath(directory))  # type: ignore[no-untyped-call]


class Metrics:
    """One process's instruments. Built once, after PROMETHEUS_MULTIPROC_DIR is set if it is to be."""

    def __init__(self) -> None:
        # Not before: prometheus-client decides when it is imported whether its values are in files.
        import prometheus_client as prometheus  # noqa: PLC0415

        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._prometheus = prometheus
        self._shared = DIRECTORY in os.environ
        # The text is made from the files when they are shared, and this process's own registry is only where the
        # instruments live.
        self.registry: CollectorRegistry = prometheus.CollectorRegistry()
        if not self._shared:
            prometheus.ProcessCollector(registry=self.registry)
            prometheus.PlatformCollector(registry=self.registry)
            prometheus.GCCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(f"callmeter_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
            return prometheus.Histogram(f"callmeter_{name}", text, labels, buckets=buckets, registry=self.registry)

        def gauge(name: str, text: str, *labels: str, mode: Any = "livesum") -> Any:
            return prometheus.Gauge(f"callmeter_{name}", text, labels, multiprocess_mode=mode, registry=self.registry)

        # HTTP
        self.http_seconds = histogram(
            "http_request_duration_seconds", "HTTP requests by route template and status.", FAST_S,
            "method", "route", "status",
        )  # fmt: skip
        self.payment_seconds = histogram(
            "payment_duration_seconds", "Answers of the payment routes.", PAYMENT_S, "route", "status"
        )
        self.vendor_seconds = histogram(
            "vendor_request_duration_seconds", "Calls to vendors' APIs.", PAYMENT_S, "vendor", "operation", "outcome"
        )
        self.csp_reports = counter(
            "csp_reports", "Content-Security-Policy violations reported by browsers.", "directive", "disposition"
        )

        # sockets
        self.tabs = gauge("socket_tabs", "Tabs connected now.")
        self.users = gauge("socket_users", "Users with a tab connected to this process now, summed over processes.")
        self.connects = counter("socket_connects", "Socket handshakes by outcome.", "outcome")
        self.reconnects = counter(
            "socket_reconnects", "Connections of a user who had lost a tab here in the minute before."
        )
        self.drops = counter("socket_disconnects", "Sockets that went, by reason.", "reason")
        self.events = counter("socket_events", "Socket events by what was acknowledged.", "event", "outcome")
        self.event_seconds = histogram(
            "socket_event_duration_seconds", "Socket events from arrival to acknowledgement.", FAST_S, "event"
        )

        # the meter
        self.debits = counter("meter_debits", "Periods the meter came to, by what came of it.", "outcome")
        self.batch_seconds = histogram(
            "meter_batch_duration_seconds", "One batch of the meter, the telling included.", FAST_S
        )
        self.batch_calls = histogram("meter_batch_calls", "Calls in one batch of the meter.", CALLS)
        self.batch_lag_seconds = histogram(
            "meter_debit_lag_seconds", "How long after its start a batch's oldest period was debited.", LAG_S
        )
        self.meter_failures = counter("meter_failures", "Rounds of the meter that failed.")
        self.due_lag_seconds = gauge(
            "meter_due_lag_seconds", "How long the oldest due period has been waiting.", mode="livemostrecent"
        )

        # PostgreSQL
        self.pool_connections = gauge("db_pool_connections", "Connections of the pools, by state.", "state")
        self.pool_limit = gauge("db_pool_limit_connections", "The most connections the pools may open.")
        self.pool_waiting = gauge("db_pool_waiting", "Who waits for a connection now.")
        self.acquire_seconds = histogram("db_pool_wait_duration_seconds", "Waits for a connection.", FAST_S)
        self.acquire_failures = counter("db_pool_wait_failures", "Waits for a connection that got none.")

        # Redis
        self.redis_seconds = histogram("redis_ping_duration_seconds", "Round trips to Redis.", FAST_S)
        self.redis_memory_bytes = gauge("redis_memory_bytes", "Memory Redis uses.", mode="livemostrecent")
        self.redis_memory_limit_bytes = gauge(
            "redis_memory_limit_bytes", "The most memory Redis may use; 0 is no limit.", mode="livemostrecent"
        )
        self.redis_clients = gauge("redis_connected_clients", "Connections to Redis.", mode="livemostrecent")
        self.redis_evicted_keys = gauge(
            "redis_evicted_keys", "Keys Redis has dropped for want of memory.", mode="livemostrecent"
        )
        self.up = gauge("dependency_up", "Whether a server answered when last asked.", "server", mode="livemin")

        # business and jobs
        self.live_calls = gauge("live_calls", "Calls going on, by status.", "status", mode="livemostrecent")
        self.pending_purchases = gauge(
            "purchases_pending", "Purchases neither finished nor given up.", mode="livemostrecent"
        )
        self.jobs = gauge("jobs", "Jobs by status.", "status", mode="livemostrecent")

    # -- observations that need a rule -------------------------------------------------------------------------------

    def csp_report(self, directive: str, disposition: str) -> None:
        self.csp_reports.labels(directive, disposition).inc()

    def http_request(self, method: str, route: str, status: int, seconds: float) -> None:
        self.http_seconds.labels(method, route, str(status)).observe(seconds)
        if "/payments/" in route:
            self.payment_seconds.labels(route, str(status)).observe(seconds)

    def vendor_request(self, vendor: str, operation: str, outcome: str, seconds: float) -> None:
        self.vendor_seconds.labels(vendor, operation, outcome).observe(seconds)

    def socket_event(self, event: str, outcome: str, seconds: float) -> None:
        self.events.labels(event, outcome).inc()
        self.event_seconds.labels(event).observe(seconds)

    def socket_gone(self, reason: str) -> None:
        self.drops.labels(reason if reason in DISCONNECT_REASONS else "other").inc()

    def billed(self, outcome: str) -> None:
        self.debits.labels(outcome).inc()

    def meter_batch(self, *, size: int, seconds: float, lag_s: float) -> None:
        self.batch_calls.observe(size)
        self.batch_seconds.observe(seconds)
        self.batch_lag_seconds.observe(lag_s)

    def meter_failed(self) -> None:
        self.meter_failures.inc()

    @contextmanager
    def waiting_for_connection(self) -> Iterator[None]:
        self.pool_waiting.inc()
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self.acquire_failures.inc()
            raise
        else:
            self.acquire_seconds.observe(time.perf_counter() - started)
        finally:
            self.pool_waiting.dec()

    def redis_info(self, info: Mapping[str, Any]) -> None:
        """What `INFO` said; a hosted Redis may keep some of it to itself."""
        for instrument, name in (
            (self.redis_memory_bytes, "used_memory"),
            (self.redis_memory_limit_bytes, "maxmemory"),
            (self.redis_clients, "connected_clients"),
            (self.redis_evicted_keys, "evicted_keys"),
        ):
            if name in info:
                instrument.set(float(info[name]))

    # -- the text ------------------------------------------------------------------------------------------------

    def text(self) -> tuple[bytes, str]:
        """The exposition of every process, and its media type."""
        registry = self.registry
        if self._shared:
            from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

            registry = self._prometheus.CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return self._prometheus.generate_latest(registry), self._prometheus.CONTENT_TYPE_LATEST
