"""The server's counts for Prometheus. The table in `docs/how-to/operate.md` says which to watch; a test compares them.

The registry is this server's own, so that several servers in one process show their own numbers. A scrape reads plain
numbers in a thread of its own, and never waits for the event loop or the database.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from blockyard_server.audit_output import dropped_lines
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.policy import Permission
from blockyard_server.engine.bounded_names import OTHER
from blockyard_server.engine.counts import Counts, Durations
from blockyard_server.engine.engine import Engine
from blockyard_server.rpc.audit_log import OWNER, AuditLog
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.auth.hints import Hint, Scheme
from blockyard_server.rpc.call_counts import CallCounts
from blockyard_server.rpc.lost_answers import LOST_ANSWERS
from blockyard_server.rpc.rates import Rates
from blockyard_server.rpc.server import Edge

if TYPE_CHECKING:
    from blockyard_server.rpc.tls import Certificates  # brings cryptography, which only TLS needs

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


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What runs."""

    version: str
    schema: str


class ServerMetrics(Collector):
    """What a server's engine and edge have counted, at the moment of the scrape."""

    def __init__(
        self,
        engine: Engine,
        edge: Edge,
        build: BuildInfo,
        certificates: "Certificates | None" = None,
        auth_file: FileAuthenticator | None = None,
    ) -> None:
        self._engine = engine
        self._edge = edge
        self._build = build
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._certificates = certificates
        self._auth_file = auth_file

    def render(self, accept: str) -> tuple[bytes, str]:
        """The answer to a scrape, in a format that its Accept header has, and the type of its content."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def why_not_ready(self) -> str | None:
        """Why this server takes no calls; None if it does. The health service says the same over gRPC."""
        return None if self._edge.health.is_serving else "the server is stopping, or its database cannot be used"

    def why_not_alive(self) -> str | None:
        """Why this process should be restarted; None if it should not."""
        return self._engine.pulse.why_not_alive()

    def collect(self) -> Iterator[Metric]:
        """Every metric but those of the process."""
        counts = self._engine.counts
        build = {"version": self._build.version, "schema": self._build.schema}
        yield InfoMetricFamily("blockyard_build", "Which release runs, and the newest schema that it knows.", build)
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"blockyard_{name}", meaning, value=getattr(counts, name))
        yield _counter("requests", "Requests for changes that were answered.", ("kind", "outcome"), counts.requests)
        yield from _writers(counts)
        yield _histogram(
            "loop_lag_seconds", "How late the event loop was, looked at again and again.", self._engine.pulse.lag
        )
        yield from _fleets(counts, self._engine.fleets)
        yield from _watches(self._engine)
        yield from _calls(self._edge.calls)
        yield CounterMetricFamily(
            "blockyard_answers_lost", "Answers whose clients went away while they were sent.", value=LOST_ANSWERS.count
        )
        yield GaugeMetricFamily(
            "blockyard_connections", "Connections that have an open stream.", value=self._edge.admission.connections
        )
        yield from _rates(self._edge.methods.rates)
        if self._auth_file is not None:
            yield from _identity(self._edge.audit_log, self._auth_file)
        if self._certificates is not None:
            yield from _tls(self._certificates)


def _counter(name: str, meaning: str, labels: tuple[str, ...], numbers: Mapping[Any, float]) -> Metric:
    metric = CounterMetricFamily(f"blockyard_{name}", meaning, labels=labels)
    for values, number in sorted(dict(numbers).items()):
        metric.add_metric(values, number)
    return metric


def _histogram(name: str, meaning: str, durations: Durations) -> Metric:
    return HistogramMetricFamily(f"blockyard_{name}", meaning, buckets=_buckets(durations), sum_value=durations.total_s)


def _histograms(name: str, meaning: str, label: str, by_value: Iterable[tuple[str, Durations]]) -> Metric:
    metric = HistogramMetricFamily(f"blockyard_{name}", meaning, labels=(label,))
    for value, durations in by_value:
        metric.add_metric((value,), _buckets(durations), durations.total_s)
    return metric


def _writers(counts: Counts) -> Iterator[Metric]:
    waits = [(urgency.name.lower(), durations) for urgency, durations in counts.waits.items()]
    yield _histograms("queue_seconds", "How long requests waited for their transaction.", "class", waits)
    waiting = GaugeMetricFamily("blockyard_queue_waiting", "Requests that wait for a transaction.", labels=("class",))
    for urgency, number in counts.waiting.items():
        waiting.add_metric((urgency.name.lower(),), number)
    yield waiting
    yield _histogram("batch_requests", "How many requests shared a transaction.", counts.batch_sizes)
    yield _histogram(
        "transaction_seconds", "How long a batch's transaction took, from begin to commit.", counts.transactions
    )
    yield _histogram("commit_seconds", "How long the commit alone took, where something was changed.", counts.commits)


def _fleets(counts: Counts, fleets: list[FleetState]) -> Iterator[Metric]:
    shown, halted = counts.fleets.elect(), set(counts.halted_fleets)
    expired = CounterMetricFamily(
        "blockyard_leases_expired", "Leases that have ended without a release.", labels=("fleet",)
    )
    for fleet, number in sorted({OTHER: 0, **counts.leases_expired}.items()):
        if fleet in shown or fleet == OTHER:
            expired.add_metric((fleet,), number)
    yield expired
    yield CounterMetricFamily(
        "blockyard_lease_renewals_late", "Renewals in the last third of their lease.", value=counts.late_renewals
    )
    yield CounterMetricFamily(
        "blockyard_leases_extended",
        "Times that all leases of a fleet were extended, because time may have been skipped.",
        value=counts.leases_extended,
    )
    yield _blocks(fleets, shown)
    yield GaugeMetricFamily("blockyard_fleets_halted", "Fleets whose writes are stopped.", value=len(halted))
    named = sorted(halted)[: counts.fleets.most]
    by_fleet = GaugeMetricFamily("blockyard_fleet_halted", "Whether a fleet's writes are stopped.", labels=("fleet",))
    for fleet in sorted(shown.union(named)):
        by_fleet.add_metric((fleet,), fleet in halted)
    by_fleet.add_metric((OTHER,), len(halted.difference(shown, named)))
    yield by_fleet


def _blocks(fleets: list[FleetState], shown: frozenset[str]) -> Metric:
    others = [0, 0, 0]
    sizes = {OTHER: others}
    for state in fleets:
        index = state.index
        total, idle, acquirable = index.total_blocks, index.idle_blocks, index.acquirable_blocks
        size = sizes.setdefault(state.fleet, [0, 0, 0]) if state.fleet in shown else others
        size[0] += total - idle
        size[1] += acquirable
        size[2] += idle - acquirable
    metric = GaugeMetricFamily(
        "blockyard_fleet_blocks",
        "Blocks of a fleet, as this server has last seen it: busy, idle, or idle but not acquirable.",
        labels=("fleet", "state"),
    )
    for fleet, size in sorted(sizes.items()):
        for state_name, number in zip(("busy", "idle", "unacquirable"), size, strict=True):
            metric.add_metric((fleet, state_name), number)
    return metric


def _watches(engine: Engine) -> Iterator[Metric]:
    watches = engine.watches
    yield GaugeMetricFamily("blockyard_watches", "Watches that are open.", value=watches.open_watches)
    yield CounterMetricFamily(
        "blockyard_watch_answers", "Answers of watches that were taken.", value=watches.pages_sent
    )
    yield GaugeMetricFamily(
        "blockyard_watch_lag_revisions", "How far the slowest watch is behind.", value=watches.lag_revisions
    )


def _rates(rates: Rates) -> Iterator[Metric]:
    limited = CounterMetricFamily(
        "blockyard_rate_limited", "Calls that were refused for their principal's limits.", labels=("limit",)
    )
    for limit, number in sorted(dict(rates.refused).items()):
        limited.add_metric((limit,), number)
    yield limited
    shown = rates.tenants.elect() | {OTHER}
    for name, meaning, numbers in (
        ("tenant_units", "What the calls of known principals have cost.", rates.units),
        ("tenant_throttled", "Calls that were refused for their principal's limits, by tenant.", rates.throttled),
    ):
        metric = CounterMetricFamily(f"blockyard_{name}", meaning, labels=("tenant",))
        for tenant in sorted(shown):
            metric.add_metric((tenant,), numbers[tenant])
        yield metric


def _identity(audit_log: AuditLog, auth_file: FileAuthenticator) -> Iterator[Metric]:
    failures = CounterMetricFamily(
        "blockyard_auth_failures", "Calls of strangers that were refused.", labels=("scheme", "hint")
    )
    # What has not happened yet is zero, so that a first increase is seen as one.
    counts = {(Scheme.NONE.value, Hint.MISSING.value): 0, **auth_file.failed_logins.counts}
    for (scheme, hint), number in sorted(counts.items()):
        failures.add_metric((scheme, hint), number)
    yield failures
    denied = CounterMetricFamily(
        "blockyard_denied", "Calls and operations that were denied, by what they took.", labels=("permission",)
    )
    known = dict.fromkeys((*(str(permission.name) for permission in Permission), OWNER), 0)
    for permission, number in sorted({**known, **audit_log.denied}.items()):
        denied.add_metric((permission,), number)
    yield denied
    yield CounterMetricFamily(
        "blockyard_audit_lines_dropped", "Lines of the audit log that found no room.", value=dropped_lines()
    )
    status = auth_file.status
    yield CounterMetricFamily(
        "blockyard_auth_file_failures",
        "Auth files that were refused; the last good one goes on.",
        value=status.failures,
    )
    yield GaugeMetricFamily(
        "blockyard_auth_file_loaded_seconds",
        "When the auth file in use was taken, in seconds since the epoch.",
        value=status.last_success_s,
    )


def _calls(calls: CallCounts) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "blockyard_rpc", "Calls that have ended, by gRPC status and reason.", labels=("rpc", "code", "reason")
    )
    for (path, status, reason), number in sorted(calls.ended.items()):
        ended.add_metric((path[1:], status, reason), number)
    yield ended
    given_up = CounterMetricFamily(
        "blockyard_calls_given_up",
        "Calls that were ended because their client did not send the request or take the answer.",
        labels=("waited_for",),
    )
    for waited_for, number in sorted(dict(calls.given_up).items()):
        given_up.add_metric((waited_for,), number)
    yield given_up
    under_way = GaugeMetricFamily("blockyard_rpc_in_flight", "Calls and streams that are under way.", labels=("rpc",))
    for path, number in sorted(calls.under_way.items()):
        under_way.add_metric((path[1:],), number)
    yield under_way
    took = [(path[1:], durations) for path, durations in sorted(calls.durations.items())]
    yield _histograms("rpc_seconds", "How long calls with one answer took.", "rpc", took)


def _tls(certificates: "Certificates") -> Iterator[Metric]:
    certificates.look()  # there may be no handshake for hours, and a wrong file is to be known before the next one
    yield CounterMetricFamily(
        "blockyard_tls_reload_failures",
        "Changes of the certificate's files that were not taken.",
        value=certificates.reload_failures,
    )
    yield GaugeMetricFamily(
        "blockyard_tls_not_after_seconds",
        "When the certificate in use ends, in seconds since the epoch.",
        value=certificates.not_after_s,
    )


def _buckets(durations: Durations) -> list[tuple[str, int]]:
    bounds = [*map(str, durations.bounds_s), "+Inf"]
    return list(zip(bounds, durations.up_to, strict=True))
