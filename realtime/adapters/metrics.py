"""What is measured, by name and unit, and the Prometheus text of it.

With one process the values are its own. With several behind the one port, whoever starts them names a directory in
PROMETHEUS_MULTIPROC_DIR before they do: each process writes its values to files there and a scrape of any of them reads
all (prometheus-client's multiprocess mode). Counters of a process that has ended stay counted; its gauges go when the
one who started it calls `forget_process`. `callmeter_processes` says how many live ones an answer covers. What is
sampled rather than counted (sockets, pools, the fan-out's totals) is as old as each process's last sample: seconds.

Labels come from tables of this program (route templates, event names, refusal codes), never from what a client sends.
"""

from __future__ import annotations

import operator
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


class FanoutStats(Protocol):
    """What is read of the fan-out: see `realtime.fanout`."""

    messages_out: int
    bytes_out: int
    messages_in: int
    bytes_in: int
    redis_published: int
    redis_received: int
    redis_lost: int
    gaps: int
    upgrades: int
    drops: Counter[str]
    sockets: int
    polling_sockets: int
    connections: int
    send_queue_bytes: int
    redis_lag_s: float | None


@contextmanager
def shared_directory(environment: dict[str, str], within: str) -> Iterator[None]:
    """Name a fresh directory in `environment` for the processes started with it; it goes when this block ends."""
    path = tempfile.mkdtemp(prefix="metrics-", dir=within)
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


class ProcessesTogether:
    """`process_cpu_seconds_total`, `process_resident_memory_bytes`, … of all live processes that share `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Any]:
        from prometheus_client import ProcessCollector  # noqa: PLC0415

        together: dict[str, Any] = {}
        # `forget_process` removes the files of gauges that only live processes have.
        for pid in {int(file.stem.rpartition("_")[2]) for file in self._directory.glob("gauge_live*.db")}:
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                if (known := together.setdefault(family.name, family)) is not family:
                    put = min if family.name == "process_start_time_seconds" else operator.add
                    pairs = zip(known.samples, family.samples, strict=True)
                    known.samples = [one._replace(value=put(one.value, other.value)) for one, other in pairs]
        yield from together.values()


class Instruments:
    """Makes this process's instruments, all under one prefix and in one registry."""

    def __init__(self, registry: CollectorRegistry, prometheus: Any) -> None:
        self._registry, self._prometheus = registry, prometheus

    def counter(self, name: str, text: str, *labels: str) -> Any:
        return self._prometheus.Counter(f"callmeter_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
        return self._prometheus.Histogram(f"callmeter_{name}", text, labels, buckets=buckets, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str, mode: str = "livesum") -> Any:
        """`mode` is how the values of several processes become one."""
        return self._prometheus.Gauge(
            f"callmeter_{name}", text, labels, multiprocess_mode=mode, registry=self._registry
        )


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
        self._seen: Counter[tuple[str, str]] = Counter()
        make = Instruments(self.registry, prometheus)
        self.processes = make.gauge("processes", "Live server processes that this answer covers.")
        self.processes.set(1)
        self.tasks = make.gauge("event_loop_tasks", "Tasks of the event loops that have not ended.")
        self._make_http(make)
        self._make_sockets(make)
        self._make_fanout(make)
        self._make_billing(make)
        self._make_dependencies(make)

    def _make_http(self, make: Instruments) -> None:
        self.http_seconds = make.histogram(
            "http_request_duration_seconds", "HTTP requests by route template and status.", FAST_S,
            "method", "route", "status",
        )  # fmt: skip
        self.payment_seconds = make.histogram(
            "payment_duration_seconds", "Answers of the payment routes.", PAYMENT_S, "route", "status"
        )
        self.vendor_seconds = make.histogram(
            "vendor_request_duration_seconds", "Calls to vendors' APIs.", PAYMENT_S, "vendor", "operation", "outcome"
        )
        self.csp_reports = make.counter(
            "csp_reports", "Content-Security-Policy violations reported by browsers.", "directive", "disposition"
        )

    def _make_sockets(self, make: Instruments) -> None:
        self.tabs = make.gauge("socket_tabs", "Tabs connected now.")
        self.users = make.gauge(
            "socket_users", "Users with a tab connected to this process now, summed over processes."
        )
        self.connects = make.counter("socket_connects", "Socket handshakes by outcome.", "outcome")
        self.reconnects = make.counter(
            "socket_reconnects", "Connections of a user who had lost a tab here in the minute before."
        )
        self.drops = make.counter("socket_disconnects", "Sockets that went, by reason.", "reason")
        self.events = make.counter("socket_events", "Socket events by what was acknowledged.", "event", "outcome")
        self.event_seconds = make.histogram(
            "socket_event_duration_seconds", "Socket events from arrival to acknowledgement.", FAST_S, "event"
        )

    def _make_fanout(self, make: Instruments) -> None:
        self.fanout_packets = make.counter("fanout_packets", "Packets to and from sockets here.", "direction")
        self.fanout_bytes = make.counter("fanout_bytes", "What those packets weighed.", "direction")
        self.fanout_bus_messages = make.counter(
            "fanout_bus_messages", "Messages between processes, by what became of them.", "fate"
        )
        self.fanout_gaps = make.counter(
            "fanout_gaps", "Times this process's tabs may have missed pushes and got snapshots."
        )
        self.fanout_drops = make.counter("fanout_drops", "Connections ended or refused by a limit, by which.", "limit")
        self.fanout_upgrades = make.counter("fanout_upgrades", "Sessions that went from polling to WebSocket.")
        self.fanout_sockets = make.gauge("fanout_sockets", "Sockets open now, by transport.", "transport")
        self.fanout_connections = make.gauge("fanout_connections", "TCP connections open now, HTTP ones included.")
        self.fanout_queued_bytes = make.gauge("fanout_queued_bytes", "Bytes sockets have not taken yet.")
        self.delivery_lag_seconds = make.gauge(
            "fanout_delivery_lag_seconds", "How long a push takes to another process and back.", mode="livemax"
        )

    def _make_billing(self, make: Instruments) -> None:
        self.debits = make.counter("meter_debits", "Periods the meter came to, by what came of it.", "outcome")
        self.batch_seconds = make.histogram(
            "meter_batch_duration_seconds", "One batch of the meter, the telling included.", FAST_S
        )
        self.batch_calls = make.histogram("meter_batch_calls", "Calls in one batch of the meter.", CALLS)
        self.batch_lag_seconds = make.histogram(
            "meter_debit_lag_seconds", "How long after its start a batch's oldest period was debited.", LAG_S
        )
        self.meter_failures = make.counter("meter_failures", "Rounds of the meter that failed.")
        self.due_lag_seconds = make.gauge(
            "meter_due_lag_seconds", "How long the oldest due period has been waiting.", mode="livemostrecent"
        )

        self.live_calls = make.gauge("live_calls", "Calls going on, by status.", "status", mode="livemostrecent")
        self.pending_purchases = make.gauge(
            "purchases_pending", "Purchases neither finished nor given up.", mode="livemostrecent"
        )
        self.purchases = make.counter("purchases", "Purchases by how they ended, or wait for their buyer.", "outcome")
        self.stripe_events = make.counter("stripe_events", "Stripe's events by what became of them.", "outcome")
        self.jobs = make.gauge("jobs", "Jobs by status.", "status", mode="livemostrecent")

    def _make_dependencies(self, make: Instruments) -> None:
        self.pool_connections = make.gauge("db_pool_connections", "Connections of the pools, by state.", "state")
        self.pool_limit = make.gauge("db_pool_limit_connections", "The most connections the pools may open.")
        self.pool_waiting = make.gauge("db_pool_waiting", "Who waits for a connection now.")
        self.acquire_seconds = make.histogram("db_pool_wait_duration_seconds", "Waits for a connection.", FAST_S)
        self.acquire_failures = make.counter("db_pool_wait_failures", "Waits for a connection that got none.")

        self.redis_seconds = make.histogram("redis_ping_duration_seconds", "Round trips to Redis.", FAST_S)
        self.redis_memory_bytes = make.gauge("redis_memory_bytes", "Memory Redis uses.", mode="livemostrecent")
        self.redis_memory_limit_bytes = make.gauge(
            "redis_memory_limit_bytes", "The most memory Redis may use; 0 is no limit.", mode="livemostrecent"
        )
        self.redis_clients = make.gauge("redis_connected_clients", "Connections to Redis.", mode="livemostrecent")
        self.redis_evicted_keys = make.gauge(
            "redis_evicted_keys", "Keys Redis has dropped for want of memory.", mode="livemostrecent"
        )
        self.up = make.gauge("dependency_up", "Whether a server answered when last asked.", "server", mode="livemin")

    # -- observations that need a rule -------------------------------------------------------------------------------

    def csp_report(self, directive: str, disposition: str) -> None:
        self.csp_reports.labels(directive, disposition).inc()

    def http_request(self, method: str, route: str, status: int, seconds: float) -> None:
        self.http_seconds.labels(method, route, str(status)).observe(seconds)
        if "/payments/" in route:
            self.payment_seconds.labels(route, str(status)).observe(seconds)

    def vendor_request(self, vendor: str, operation: str, outcome: str, seconds: float) -> None:
        self.vendor_seconds.labels(vendor, operation, outcome).observe(seconds)

    def purchase(self, outcome: str) -> None:
        self.purchases.labels(outcome).inc()

    def stripe_event(self, outcome: str) -> None:
        self.stripe_events.labels(outcome).inc()

    def socket_event(self, event: str, outcome: str, seconds: float) -> None:
        self.events.labels(event, outcome).inc()
        self.event_seconds.labels(event).observe(seconds)

    def socket_gone(self, reason: str) -> None:
        self.drops.labels(reason if reason in DISCONNECT_REASONS else "other").inc()

    def fanout(self, stats: FanoutStats) -> None:
        """Read the fan-out's statistics: totals since its start, and how things stand now."""
        for instrument, label, total in (
            (self.fanout_packets, "out", stats.messages_out),
            (self.fanout_packets, "in", stats.messages_in),
            (self.fanout_bytes, "out", stats.bytes_out),
            (self.fanout_bytes, "in", stats.bytes_in),
            (self.fanout_bus_messages, "sent", stats.redis_published),
            (self.fanout_bus_messages, "received", stats.redis_received),
            (self.fanout_bus_messages, "lost", stats.redis_lost),
            (self.fanout_gaps, "", stats.gaps),
            (self.fanout_upgrades, "", stats.upgrades),
            *((self.fanout_drops, limit, total) for limit, total in stats.drops.items()),
        ):
            self._grow(instrument, label, total)
        self.fanout_sockets.labels("polling").set(stats.polling_sockets)
        self.fanout_sockets.labels("websocket").set(stats.sockets - stats.polling_sockets)
        self.fanout_connections.set(stats.connections)
        self.fanout_queued_bytes.set(stats.send_queue_bytes)
        if stats.redis_lag_s is not None:
            self.delivery_lag_seconds.set(stats.redis_lag_s)

    def _grow(self, instrument: Any, label: str, total: int) -> None:
        """Bring a counter up to a total somebody else counts."""
        key = (instrument._name, label)
        (instrument.labels(label) if label else instrument).inc(total - self._seen[key])
        self._seen[key] = total

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
            registry.register(ProcessesTogether(Path(os.environ[DIRECTORY])))
        return self._prometheus.generate_latest(registry), self._prometheus.CONTENT_TYPE_LATEST
