"""The gRPC edge over a `Service`: what it offers, its limits, how it starts and how it drains, over all listeners.

Transport settings have their reasons here; `app.py` decides when each step happens.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2
from blockyard_server.engine.service import Service
from blockyard_server.rpc.access import AccessServicer
from blockyard_server.rpc.admission import Admission, StreamPool
from blockyard_server.rpc.allocator import AllocatorServicer
from blockyard_server.rpc.audit_log import AuditLog
from blockyard_server.rpc.auth.authenticator import Authenticator
from blockyard_server.rpc.auth.identity import RECHECK_S, Identity, ListenerMethods
from blockyard_server.rpc.call_counts import CallCounts
from blockyard_server.rpc.calls_under_way import CallsUnderWay
from blockyard_server.rpc.error_answers import ErrorAnswers
from blockyard_server.rpc.fleet_admin import FleetAdminServicer
from blockyard_server.rpc.health import Health
from blockyard_server.rpc.interceptors import Interceptor
from blockyard_server.rpc.ledger import LedgerServicer
from blockyard_server.rpc.listen import Listener, PortListener
from blockyard_server.rpc.lost_answers import LOST_ANSWERS
from blockyard_server.rpc.methods import Methods
from blockyard_server.rpc.rates import MAX_TENANTS_SHOWN, Rates
from blockyard_server.rpc.reflection import V1, V1ALPHA, ReflectionLimits, reflection_services
from blockyard_server.rpc.stuck_calls import StuckCalls
from blockyard_server.settings import MAX_REQUEST_BYTES

CHANGES: Final = frozenset(
    {"Acquire", "Release", "Renew", "Batch", "Repair"}
    | {f"{verb}{noun}" for verb in ("Create", "Update", "Delete") for noun in ("Fleet", "Instance")}
    | {"CordonInstance", "UncordonInstance"}
)
"""The methods that change something. When the server stops they have nearly all of its grace, all others half."""
TIME_OF_READS: Final = 0.5
"""The part of the grace after which a read, a Verify or a Repair that is still under way is ended."""
TIME_OF_CHANGES: Final = 0.9
"""The part of the grace after which a change that was not begun is refused. The rest is for the answers."""
MAX_LOCAL_CONNECTIONS: Final = 16
"""Connections to the admin socket open at once; those who have it have no use for more."""


REFLECTION_SHARE: Final = 4
_REFLECTION_LIMITS: Final = ReflectionLimits()


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """How much the edge accepts, and how it finds dead connections."""

    max_concurrent_calls: int = 4096
    """Calls under way at once, and watches open at once; one more is answered UNAVAILABLE, OVERLOADED. At least 1."""
    max_pending_calls: int = 32_768
    """Calls that gRPC holds before they are looked at, about 16 kB each. It drops each one more with a bare CANCELLED,
    so this is far above `max_concurrent_calls`: a burst is to meet the limit that gives a reason."""
    max_pending_s: int = 600
    """gRPC drops, in the same way, a call that nobody has looked at for so long."""
    max_connections: int = 10_000
    """Connections open at once, of all ports, in equal shares; one more is closed as soon as it is accepted."""
    max_health_watches_per_connection: int = 100
    """A client needs one for each channel; a proxy may bring many clients. Of one more they learn to do without. All
    connections together may have as many as there may be connections."""
    reflection: bool = True
    """Whether server reflection is served."""
    max_reflection_streams: int = 32
    """Of both versions together; a known principal may have a quarter of them."""
    reflection_limits: ReflectionLimits = _REFLECTION_LIMITS
    """What each of these streams may take."""
    max_request_bytes: int = MAX_REQUEST_BYTES
    """Of one message. gRPC refuses a larger one with RESOURCE_EXHAUSTED as soon as it sees its length."""
    max_streams_per_connection: int = 1024
    """Calls and streams of one connection at once; what is more waits in the client, where its deadline is known."""
    max_metadata_bytes: int = 32_768
    """Names and values of a call's metadata, and 32 bytes for each; gRPC refuses more with RESOURCE_EXHAUSTED. A token
    with many groups takes 15 kB."""
    handshake_timeout_s: float = 10.0
    """A connection that has not said its first words of HTTP/2 after so long is closed."""
    keepalive_time_s: float = 60.0
    """After so long without traffic a connection is pinged."""
    keepalive_timeout_s: float = 20.0
    """A ping that is not answered for so long ends the connection."""
    min_client_ping_interval_s: float = 5.0
    """Clients that ping an idle connection more often are disconnected."""
    idle_connection_s: float = 900.0
    """A connection without a call ends after so long, where connections are replaced (`Listener`)."""
    connection_age_s: float = 1800.0
    """There every connection ends after so long, give or take a tenth: clients must show who they are again."""
    connection_age_grace_s: float = 60.0
    """What is under way on it may take so long; then it is ended, and its client asks again."""
    recheck_s: float = RECHECK_S
    """An open stream's credentials are looked at again after so long."""
    write_patience_s: float = 10.0
    """A stream whose client takes no answer for so long is ended: WATCHER_TOO_SLOW."""
    client_patience_s: float = 10.0
    """A call is ended if its request does not come, or its answer is not taken, for so long."""
    max_waiting_for_clients: int = 4096
    """Calls that may wait for one of both, about 13 kB each; if there are more, the oldest ones are ended."""
    max_untaken_bytes: int = 64 * 1024 * 1024
    """Answers of 64 KiB and more that are not taken yet, together; if there is more, the oldest ones are ended."""
    stream_patience_s: float = 2.0
    """How long streams may take to end by themselves when the server drains."""
    tenants_shown: int = MAX_TENANTS_SHOWN
    """Tenants that are counted by name."""
    quiet_s: float = 0.05
    """A draining server has refused new calls for long enough once none came for so long."""
    drain_reject_max_s: float = 2.0
    """It does not wait longer than this for that, nor longer than its grace."""

    def __post_init__(self) -> None:
        """Raises ValueError if gRPC would drop calls before this server's own limit is met."""
        if self.max_pending_calls < 2 * self.max_concurrent_calls:
            message = (
                "max_pending_calls must be twice max_concurrent_calls at least: gRPC must not be the one to refuse"
            )
            raise ValueError(message)


class Edge:
    """All services, offered by every listener. `listen`, then `start`; in the end `stop`. For one event loop.

    Each listener has a gRPC server of its own. What limits the process is shared by all: calls under way, streams,
    health, the drain.
    """

    def __init__(self, service: Service, settings: EdgeSettings, authenticator: Authenticator | None = None) -> None:
        """The authenticator is for `bind` alone. None: every call is anonymous."""
        self._authenticator = authenticator
        self._listeners: list[tuple[Listener, grpc.aio.Server]] = []
        LOST_ANSWERS.install()
        self._settings = settings
        self._service = service
        self.calls = CallCounts()
        self.admission = Admission(settings.max_concurrent_calls, _stream_pools(settings))
        self.error_answers = ErrorAnswers()
        self.under_way = CallsUnderWay()
        self.audit_log = AuditLog()
        self.stuck = StuckCalls(
            self.calls.given_up,
            patience_s=settings.client_patience_s,
            most=settings.max_waiting_for_clients,
            most_bytes=settings.max_untaken_bytes,
        )
        interceptors: list[Interceptor] = [
            self.stuck,
            self.calls,
            self.admission,
            self.error_answers,
            self.under_way,
            Identity(settings.recheck_s),
            self.audit_log,
        ]
        self.methods = Methods(
            interceptors,
            rates=Rates(most_tenants=settings.tenants_shown),
            write_patience_s=settings.write_patience_s,
            arrived=self._note_arrival,
            untaken=self.stuck.note_untaken_stream,
        )
        services: list[tuple[ServiceDescriptor, object]] = [
            (_service(allocator_pb2, "Allocator"), AllocatorServicer(service, self.audit_log)),
            (_service(fleet_admin_pb2, "FleetAdmin"), FleetAdminServicer(service)),
            (_service(ledger_pb2, "Ledger"), LedgerServicer(service)),
            (_service(access_pb2, "Access"), AccessServicer()),
        ]
        self.health = Health([descriptor.full_name for descriptor, _ in services])
        services.append((_service(health_pb2, "Health"), self.health))
        if settings.reflection:
            names = [descriptor.full_name for descriptor, _ in services]
            services += reflection_services(names, settings.reflection_limits)
        for descriptor, servicer in services:
            # A draining server answers a health check with NOT_SERVING.
            self.methods.add(descriptor, servicer, changes=CHANGES, serve_while_draining=servicer is self.health)

    def bind(self, address: str) -> int:
        """Listens on one plaintext port, `host:port`, and returns the port; 0 is any free one. Raises OSError."""
        (found,) = self.listen([PortListener(address, self._authenticator)])
        return int(found.rpartition(":")[2])

    def listen(self, listeners: Sequence[Listener]) -> list[str]:
        """Takes all addresses, and returns each as its clients name it. Once. Raises OSError, which says why not."""
        ports = sum(listener.is_port for listener in listeners)
        addresses = []
        for listener in listeners:
            server = grpc.aio.server(options=_options(self._settings, listener, ports))
            methods = ListenerMethods(self.methods.find, listener.authenticator, by_certificate=listener.by_certificate)
            server.add_generic_rpc_handlers((methods,))
            try:
                addresses.append(listener.bind(server))
            except OSError:
                self._close()
                raise
            self._listeners.append((listener, server))
        return addresses

    def _close(self) -> None:
        for listener, _ in self._listeners:
            listener.close()
        self._listeners.clear()

    async def start(self) -> None:
        """Begins to serve."""
        self.stuck.start()
        for _, server in self._listeners:
            await server.start()

    async def stop(self, grace_s: float) -> None:
        """Drains within `grace_s`: NOT_SERVING, streams end, new calls are refused, those under way are answered.

        What has not ended in its part of the grace is answered with SHUTTING_DOWN, or, where the database does not say
        what became of a change, with STORE_UNAVAILABLE.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + grace_s
        self.health.drain()
        self._service.end_watches()
        ending = asyncio.create_task(self._end_in_time(grace_s), name="blockyard-drain")
        try:
            self.admission.refuse_streams()
            await self.under_way.end_streams(min(self._settings.stream_patience_s, grace_s / 4))
            await self.admission.refuse_until_quiet(
                self._settings.quiet_s, min(self._settings.drain_reject_max_s, grace_s / 4), until_s - grace_s / 4
            )
            left_s = max(0.0, until_s - loop.time())
            await asyncio.gather(*(server.stop(left_s) for _, server in self._listeners))
        finally:
            ending.cancel()
            self._close()
            self.stuck.stop()

    def _note_arrival(self) -> None:
        self.admission.note_arrival()
        self.stuck.note_arrival()

    async def _end_in_time(self, grace_s: float) -> None:
        await asyncio.sleep(grace_s * TIME_OF_READS)
        self._service.end_audits()
        self.under_way.end_reads()
        await asyncio.sleep(grace_s * (TIME_OF_CHANGES - TIME_OF_READS))
        self._service.give_up()
        await asyncio.sleep(0)  # who was refused just now takes that for an answer, before all others are ended
        self.under_way.end_changes()


def build_server(
    service: Service, settings: EdgeSettings | None = None, authenticator: Authenticator | None = None
) -> Edge:
    """The gRPC edge over a service, not yet listening. Call it inside the event loop that is to run it."""
    return Edge(service, EdgeSettings() if settings is None else settings, authenticator)


def _service(module: Any, name: str) -> ServiceDescriptor:
    descriptor: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return descriptor


def _stream_pools(settings: EdgeSettings) -> dict[str, StreamPool]:
    """Of the services that anybody may ask: their streams take no place of a watch."""
    health_watches = StreamPool(
        settings.max_connections, per_connection=settings.max_health_watches_per_connection, dispensable=True
    )
    reflection = StreamPool(
        settings.max_reflection_streams, per_principal=max(1, settings.max_reflection_streams // REFLECTION_SHARE)
    )
    return {
        _service(health_pb2, "Health").full_name: health_watches,
        V1.full_name: reflection,
        V1ALPHA.full_name: reflection,
    }


def _options(settings: EdgeSettings, listener: Listener, ports: int) -> tuple[tuple[str, int], ...]:
    """What a listener's gRPC server is made with, beside so many ports. Each port has its own counts in gRPC."""
    # Never below what `EdgeSettings` demands.
    pending = max(settings.max_pending_calls // max(1, ports), 2 * settings.max_concurrent_calls)
    connections = settings.max_connections // ports if listener.is_port else MAX_LOCAL_CONNECTIONS
    options = (
        # Without this a second server binds the same port silently, and with SQLite that is a second writer.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        # An answer is about something done: refusing to send it would only hide that.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", min(settings.max_streams_per_connection, settings.max_concurrent_calls)),
        # Between the two limits gRPC would refuse calls at random.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        # A fast client would be given windows of 4 MiB, for each of its calls, also for one that is refused before its
        # request is read. Without the probe a window is 64 KiB, and grows only for a request that is being read.
        ("grpc.http2.bdp_probe", 0),
        # Between the two limits gRPC would drop calls at random (docs/adr/0015).
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
        ("grpc.server_max_unrequested_time_in_server", settings.max_pending_s),
        # One more would take a file descriptor that the database needs.
        ("grpc.max_allowed_incoming_connections", max(1, connections)),
        ("grpc.server_handshake_timeout_ms", _ms(settings.handshake_timeout_s)),
        ("grpc.keepalive_time_ms", _ms(settings.keepalive_time_s)),
        ("grpc.keepalive_timeout_ms", _ms(settings.keepalive_timeout_s)),
        # Since gRPC has two timers for one ping, the earlier one counts; this one's default is a minute.
        ("grpc.http2.ping_timeout_ms", _ms(settings.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(settings.min_client_ping_interval_s)),
    )
    if not listener.replaces_connections:
        return options
    return (
        *options,
        ("grpc.max_connection_idle_ms", _ms(settings.idle_connection_s)),
        ("grpc.max_connection_age_ms", _ms(settings.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(settings.connection_age_grace_s)),
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
