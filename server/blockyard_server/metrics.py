"""The server's counts for Prometheus, over HTTP. Off unless an address is given.

The registry is this server's own, so that several servers in one process show their own numbers. A scrape reads plain
numbers in a thread of its own, and never waits for the event loop or the database.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from blockyard_server.engine.counts import Counts
from blockyard_server.engine.engine import Engine

_COUNTERS: Final = {
    "batches": "Transactions that carried out requests.",
    "store_failures": "Transactions that ended with STORE_UNAVAILABLE.",
    "halts": "Times that this server has halted a fleet, because an invariant did not hold.",
    "discrepancies": "Differences that Verify or the continuous verification has halted a fleet for.",
    "repairs": "Repairs that changed something.",
    "verifies": "Verifies, of operators and after repairs.",
    "audit_steps": "Steps of the continuous verification.",
    "audited_instances": "Instances that the continuous verification has compared.",
    "audited_allocations": "Live allocations that the continuous verification has compared.",
}
"""Numbers of `Counts` that only grow, by name."""


class EngineMetrics(Collector):
    """What an engine has counted, at the moment of the scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every metric; `docs/operations.md` says which to watch."""
        counts = self._engine.counts
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"blockyard_{name}", meaning, value=getattr(counts, name))
        yield _requests(counts)
        yield _transactions(counts)
        yield GaugeMetricFamily(
            "blockyard_fleets_halted", "Fleets whose writes are stopped.", value=len(counts.halted_fleets)
        )
        yield GaugeMetricFamily(
            "blockyard_requests_waiting", "Requests that wait for a transaction.", value=self._engine.requests_waiting
        )
        yield GaugeMetricFamily("blockyard_watches", "Watches that are open.", value=self._engine.watches_open)


def _requests(counts: Counts) -> Metric:
    metric = CounterMetricFamily(
        "blockyard_requests", "Requests for changes that were answered.", labels=("kind", "outcome")
    )
    for (kind, outcome), number in sorted(dict(counts.requests).items()):
        metric.add_metric((kind, outcome), number)
    return metric


def _transactions(counts: Counts) -> Metric:
    durations = counts.transactions
    bounds = [*map(str, durations.bounds_s), "+Inf"]
    buckets = list(zip(bounds, durations.up_to, strict=True))
    return HistogramMetricFamily(
        "blockyard_transaction_seconds",
        "How long a batch's transaction took, from begin to commit.",
        buckets=buckets,
        sum_value=durations.total_s,
    )


class MetricsServer:
    """Serves one engine's metrics while it is open."""

    def __init__(self, engine: Engine, listen: str) -> None:
        """Raises OSError if the address cannot be listened on. `listen` is HOST:PORT; port 0 takes a free one."""
        registry = CollectorRegistry()
        registry.register(EngineMetrics(engine))
        host, _, port = listen.rpartition(":")
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
