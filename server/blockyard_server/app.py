"""The only place that wires: settings to store, engine, edge; start and drain in their order."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Final

from blockyard_server.audit_output import audit_lines_on_stderr
from blockyard_server.descriptors import Descriptors, TooFewDescriptors, share_out
from blockyard_server.domain.quotas import Quotas
from blockyard_server.engine.auditor import AuditorSettings
from blockyard_server.engine.clock import Clock, SystemClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.formats import FormatSettings
from blockyard_server.engine.store_protocol import Store, StoreRefused
from blockyard_server.engine.sweeper import SweeperSettings
from blockyard_server.engine.writer import WriterLimits
from blockyard_server.listeners import Listeners, ListenRefused, listeners_of
from blockyard_server.metrics import BuildInfo, ServerMetrics
from blockyard_server.ops_server import OpsServer
from blockyard_server.rpc.auth.auth_file import AuthFileRefused
from blockyard_server.rpc.auth.authenticator import Authenticator
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from blockyard_server.settings import Settings
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite.store import SqliteStore

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
EXIT_MARGIN_S: Final = 5.0
"""How long after the grace the process may still be there, whatever hangs."""
EXIT_OF_HANGING: Final = 70
"""The exit code then, EX_SOFTWARE of sysexits.h."""

SWITCH_INTERVAL_S: Final = 0.001
"""A thread that computes lets another one go on after so long, instead of Python's 5 ms. The event loop asks for its
turn about ten times for a call, and a writer that is busy would make it wait each time (docs/adr/0029)."""

_log = logging.getLogger(__name__)


class StartRefused(Exception):
    """The server cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is serving."""

    address: str
    """Where, as clients name it, with the real port; of several listeners the first."""
    engine: Engine
    edge: Edge
    made_new: bool = False
    """There was no data where the settings say: an empty database was made."""
    ops_address: str | None = None
    """Where the metrics and the probes are, as `host:port` with the real port; None: nowhere."""
    addresses: tuple[str, ...] = ()
    """Of all listeners."""
    reload: Callable[[], None] | None = None
    """Has the auth file read again, soon; None: there is none."""


@asynccontextmanager
async def running_server(
    settings: Settings,
    *,
    clock: Clock | None = None,
    store: Store | None = None,
    authenticator: Authenticator | None = None,
) -> AsyncIterator[RunningServer]:
    """Serves while the block runs, then drains: NOT_SERVING, calls end, what was accepted is committed, store closed.

    `clock`, `store` and `authenticator` stand in for the real ones where a test says so. Raises StartRefused.
    """
    followed = _file_authenticator(settings) if authenticator is None else None
    listeners = _listeners(settings, authenticator or followed)
    descriptors = _descriptors(settings)
    store = store or _store(settings)
    if settings.restart_grace_s is not None:
        _log.warning(
            "restart_grace_s is %g: a start with a clock that is ahead may end leases with a longer TTL early",
            settings.restart_grace_s,
        )
    engine = Engine(
        store,
        clock or SystemClock(),
        _engine_settings(settings),
        clock_decides=clock is not None,
        available=lambda available: edge.health.set_available(available),  # noqa: PLW0108 - made below
    )
    edge = build_server(engine, _edge_settings(settings, descriptors))
    try:
        await engine.start()
    except StoreRefused as refused:
        raise StartRefused(str(refused)) from refused
    try:
        addresses = edge.listen(listeners.all)
        await edge.start()
    except OSError as error:
        await engine.stop()
        raise StartRefused(str(error)) from error
    try:
        ops = _ops_server(settings, ServerMetrics(engine, edge, build_info(), listeners.certificates, followed))
    except OSError as error:
        await edge.stop(0)
        await engine.stop()
        raise StartRefused(f"ops_listen {settings.ops_address} cannot be served: {error.strerror}") from error
    _log.info("at most %s", descriptors)
    if followed is not None:
        followed.start()
    try:
        ops_address = ops.address if ops is not None else None
        reload = None if followed is None else followed.reload
        yield RunningServer(addresses[0], engine, edge, store.made_new, ops_address, tuple(addresses), reload)
    finally:
        _log.info("draining")
        await edge.stop(settings.drain_grace_s)
        await engine.stop()
        if followed is not None:
            await followed.stop()
        if ops is not None:
            await asyncio.to_thread(ops.close)
        _log.info("stopped")


async def serve(
    settings: Settings, *, on_ready: Callable[[RunningServer], None], on_stop: Callable[[], None] = lambda: None
) -> None:
    """Serves until SIGTERM or SIGINT, then calls `on_stop` and drains. Raises StartRefused.

    Before it serves, either signal ends the process at once, however long a migration still takes: nothing was
    promised yet, and what is half done is rolled back.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    async with running_server(settings) as running:
        for number in STOPPING:
            loop.add_signal_handler(number, stop.set)
        if running.reload is not None:
            loop.add_signal_handler(signal.SIGHUP, running.reload)
        spare_the_collector()
        on_ready(running)
        await stop.wait()
        on_stop()


def _exit_now() -> None:
    """As kill -9, which loses nothing that was answered: a disk or a database keeps a thread from its end."""
    _log.critical("the server has not stopped within its grace: something hangs, and it ends as if it were killed")
    logging.shutdown()
    os._exit(EXIT_OF_HANGING)


def serve_forever(settings: Settings, *, on_ready: Callable[[RunningServer], None]) -> None:
    """Runs `serve` on uvloop, to its end. Raises StartRefused.

    A drain that hangs ends the process `EXIT_MARGIN_S` after its grace.
    """
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    exit_ = threading.Timer(settings.drain_grace_s + EXIT_MARGIN_S, _exit_now)
    exit_.daemon = True
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        with audit_lines_on_stderr(), asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(serve(settings, on_ready=on_ready, on_stop=exit_.start))
    finally:
        exit_.cancel()


def spare_the_collector() -> None:
    """Takes what is in memory after the start, which lives for long, out of the garbage collector's sight.

    With 100,000 instances a full collection would hold up every call for a good part of a second.
    """
    gc.collect()
    gc.freeze()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Uvloop where it exists: it halves the event loop's share of a call."""
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _descriptors(settings: Settings) -> Descriptors:
    """Raises StartRefused."""
    try:
        return share_out(settings)
    except TooFewDescriptors as refused:
        raise StartRefused(str(refused)) from refused


def _file_authenticator(settings: Settings) -> FileAuthenticator | None:
    """Raises StartRefused."""
    if settings.auth_file is None:
        return None
    try:
        return FileAuthenticator(settings.auth_file)
    except AuthFileRefused as refused:
        raise StartRefused(f"the auth file is refused: {'; '.join(refused.problems)}") from refused


def _listeners(settings: Settings, authenticator: Authenticator | None) -> Listeners:
    """Raises StartRefused."""
    try:
        return listeners_of(settings, authenticator)
    except ListenRefused as refused:
        raise StartRefused(str(refused)) from refused


def build_info() -> BuildInfo:
    """Which release this is, and the newest schema that it knows."""
    migrations = files("blockyard_server.store.migrations.versions").iterdir()
    schema = max(each.name[:4] for each in migrations if each.name[:4].isdigit())
    return BuildInfo(version("blockyard"), schema)


def _ops_server(settings: Settings, metrics: ServerMetrics) -> OpsServer | None:
    """Raises OSError."""
    if not settings.ops_address:
        return None
    if settings.metrics_listen:
        _log.warning("metrics_listen is the old name of ops_listen: use that one, a later release knows no other")
    return OpsServer(settings.ops_address, metrics)


def _store(settings: Settings) -> Store:
    """Raises StartRefused."""
    if settings.database is None:
        return SqliteStore(settings.data, readers=settings.readers)
    try:
        return PostgresStore(settings.database, readers=settings.readers, schema=settings.database_schema)
    except StoreRefused as refused:
        raise StartRefused(str(refused)) from refused


def _edge_settings(settings: Settings, descriptors: Descriptors) -> EdgeSettings:
    return EdgeSettings(
        max_connections=descriptors.connections,
        max_request_bytes=settings.max_request_bytes,
        reflection=settings.reflection == "on",
        tenants_shown=settings.metrics_fleets,
    )


def _engine_settings(settings: Settings) -> EngineSettings:
    return EngineSettings(
        writer=WriterLimits(settings.max_waiting, settings.max_batch, max_linger_s=settings.max_linger_s),
        sweeper=SweeperSettings(settings.sweep_interval_s, settings.retention_s, settings.journal_retention_s),
        auditor=AuditorSettings(settings.audit_interval_s),
        formats=FormatSettings(version("blockyard"), hold=settings.hold_format),
        quotas=Quotas(settings.max_open_cancellations, int(settings.retention_s * 1_000_000)),
        restart_grace_s=settings.restart_grace_s,
        fleets_shown=settings.metrics_fleets,
    )
