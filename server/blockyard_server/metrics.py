"""The server's counts for Prometheus, over HTTP. Off unless an address is given.

The registry is this server's own, so that several servers in one process show their own numbers. A scrape reads plain
numbers in a thread of its own, and never waits for the event loop or the database.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from blockyard_server.audit_output import dropped_lines
from blockyard_server.domain.policy import Permission
from blockyard_server.engine.counts import Counts, Durations
from blockyard_server.engine.engine import Engine
from blockyard_server.http_server import Answer, HttpServer
from blockyard_server.rpc.audit_log import OWNER, AuditLog
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.auth.hints import Hint, Scheme
from blockyard_server.rpc.call_counts import CallCounts
from blockyard_server.rpc.lost_answers import LOST_ANSWERS
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


class EngineMetrics(Collector):
    """What an engine and its edge have counted, at the moment of the scrape."""

    def __init__(
        self,
        engine: Engine,
        edge: Edge,
        certificates: "Certificates | None" = None,
        auth_file: FileAuthenticator | None = None,
    ) -> None:
        self._engine = engine
        self._edge = edge
        self._certificates = certificates
        self._auth_file = auth_file

    def collect(self) -> Iterator[Metric]:
        """Every metric; `docs/how-to/operate.md` says which to watch."""
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
        yield CounterMetricFamily(
            "blockyard_answers_lost", "Answers whose clients went away while they were sent.", value=LOST_ANSWERS.count
        )
        limited = CounterMetricFamily(
            "blockyard_rate_limited", "Calls that were refused for their principal's limits.", labels=("limit",)
        )
        for limit, number in sorted(dict(self._edge.methods.rates.refused).items()):
            limited.add_metric((limit,), number)
        yield limited
        yield from _calls(self._edge.calls)
        if self._auth_file is not None:
            yield from _identity(self._edge.audit_log, self._auth_file)
        if self._certificates is not None:
            yield from _tls(self._certificates)


def _requests(counts: Counts) -> Metric:
    metric = CounterMetricFamily(
        "blockyard_requests", "Requests for changes that were answered.", labels=("kind", "outcome")
    )
    for (kind, outcome), number in sorted(dict(counts.requests).items()):
        metric.add_metric((kind, outcome), number)
    return metric


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
    answered = CounterMetricFamily(
        "blockyard_calls", "Calls that have ended, by gRPC status.", labels=("method", "status")
    )
    for (method, status), number in sorted(dict(calls.answered).items()):
        answered.add_metric((method, status), number)
    yield answered
    given_up = CounterMetricFamily(
        "blockyard_calls_given_up",
        "Calls that were ended because their client did not send the request or take the answer.",
        labels=("waited_for",),
    )
    for waited_for, number in sorted(dict(calls.given_up).items()):
        given_up.add_metric((waited_for,), number)
    yield given_up
    under_way = GaugeMetricFamily(
        "blockyard_calls_under_way", "Calls and streams that are under way.", labels=("method",)
    )
    for method, number in sorted(calls.under_way.items()):
        under_way.add_metric((method,), number)
    yield under_way
    took = HistogramMetricFamily("blockyard_call_seconds", "How long calls with one answer took.", labels=("method",))
    for method, durations in sorted(calls.durations.items()):
        took.add_metric((method,), _buckets(durations), durations.total_s)
    yield took


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


def _transactions(counts: Counts) -> Metric:
    durations = counts.transactions
    return HistogramMetricFamily(
        "blockyard_transaction_seconds",
        "How long a batch's transaction took, from begin to commit.",
        buckets=_buckets(durations),
        sum_value=durations.total_s,
    )


class MetricsServer:
    """Serves one engine's metrics while it is open."""

    def __init__(
        self,
        engine: Engine,
        edge: Edge,
        listen: str,
        certificates: "Certificates | None" = None,
        auth_file: FileAuthenticator | None = None,
    ) -> None:
        """Raises OSError if the address cannot be listened on. `listen` is HOST:PORT; port 0 takes a free one."""
        registry = CollectorRegistry()
        registry.register(EngineMetrics(engine, edge, certificates, auth_file))
        self._registry = registry
        self._server = HttpServer(listen, {"/metrics": self._scrape})
        self.address = self._server.address

    def close(self) -> None:
        """Answers no more."""
        self._server.close()

    def _scrape(self, headers: Mapping[str, str]) -> Answer:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        return Answer(HTTPStatus.OK, encode(self._registry), content_type)
