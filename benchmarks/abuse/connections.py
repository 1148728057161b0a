"""Connections that do nothing: many that are alive, some that never sent a byte, and some to the metrics."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from benchmarks.abuse.plain import honest_for, memory_mib, plain_server
from benchmarks.abuse.principals import many_files
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from tests.harness.http2 import PREFACE, SETTINGS, frame
from tests.harness.process import ServerProcess, free_port

SILENT: Final = 200
PAGES: Final = 500


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of all three."""
    metrics = f"127.0.0.1:{free_port()}"
    most = scale.of(10_000, 2_000)
    with many_files(), plain_server(scale.folder, ops_listen=metrics, max_connections=most) as server:
        return asyncio.run(_all(server, most, int(metrics.rpartition(":")[2])))


async def _all(server: ServerProcess, most: int, metrics_port: int) -> list[Figure]:
    return [
        *await _to_metrics(server, metrics_port),
        *await _silent(server),
        *await _idle(server, most),
    ]


class _Idle(asyncio.Protocol):
    """A client of HTTP/2 that sends its preface and no more."""

    def __init__(self, *, greets: bool = True) -> None:
        self._greets = greets
        self.settled = asyncio.get_running_loop().create_future()
        """It was greeted, or closed."""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self._greets:
            assert isinstance(transport, asyncio.Transport)
            transport.write(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))

    def data_received(self, _data: bytes) -> None:
        self._settle()

    def connection_lost(self, _error: Exception | None) -> None:
        self._settle()
        if not self.closed.done():
            self.closed.set_result(None)

    def _settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)


async def _connect(port: int, *, greets: bool = True) -> _Idle:
    _, protocol = await asyncio.get_running_loop().create_connection(lambda: _Idle(greets=greets), "127.0.0.1", port)
    return protocol


async def _idle(server: ServerProcess, most: int) -> list[Figure]:
    alone = await honest_for(server.address, 3)
    before_mib, before = memory_mib(server), _descriptors(server)
    room = most - 20  # for the honest client, and for the connections of clients that have just ended
    crowd = [await _connect(server.port) for _ in range(room)]
    await asyncio.wait([one.settled for one in crowd], timeout=60)
    alive = sum(not one.closed.done() for one in crowd)
    grown_mib = memory_mib(server) - before_mib
    beside = await honest_for(server.address, 3)
    more = [await _connect(server.port) for _ in range(100)]
    await asyncio.wait([one.closed for one in more], timeout=10)
    refused = sum(one.closed.done() for one in more)
    descriptors = _descriptors(server) - before
    for one in [*crowd, *more]:
        one.transport.close()
    return [
        Figure(f"{room} idle connections: alive", alive, "", at_least=room, kind="count"),
        Figure("  memory", grown_mib, "MiB", at_most=120),
        Figure("  honest p50 alone", 1000 * percentile(alone, 0.5), "ms"),
        Figure("  honest p50 beside, over alone", percentile(beside, 0.5) / percentile(alone, 0.5), "", at_most=1.2),
        Figure("100 more: refused", refused, "", at_least=80, kind="count"),
        Figure("  file descriptors taken", descriptors, "", at_most=most + 16, kind="count"),
    ]


async def _silent(server: ServerProcess) -> list[Figure]:
    began_s = monotonic()
    crowd = [await _connect(server.port, greets=False) for _ in range(SILENT)]
    await asyncio.wait([one.closed for one in crowd], timeout=60)
    took_s = monotonic() - began_s
    closed = sum(one.closed.done() for one in crowd)
    return [
        Figure(f"{SILENT} connections that say nothing: closed", closed, "", at_least=SILENT, kind="count"),
        Figure("  after", took_s, "s", at_most=11),
    ]


async def _to_metrics(server: ServerProcess, port: int) -> list[Figure]:
    before = _threads(server)
    began_s = monotonic()
    crowd = [await _connect(port, greets=False) for _ in range(PAGES)]
    await asyncio.sleep(0.5)
    threads, kept = _threads(server) - before, sum(not one.closed.done() for one in crowd)
    await asyncio.wait([one.closed for one in crowd], timeout=60)
    took_s = monotonic() - began_s
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    served = (await reader.readline()).startswith(b"HTTP/1.1 200")
    with suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()
    return [
        Figure(f"{PAGES} silent connections to the metrics: kept", kept, "", at_most=32, kind="count"),
        Figure("  threads more", threads, "", at_most=0, kind="count"),
        Figure("  all closed after", took_s, "s", at_most=6),
        Figure("  a scrape afterwards: served", served, "", at_least=1, kind="count"),
    ]


def _threads(server: ServerProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{server.pid}/task").iterdir())


def _descriptors(server: ServerProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())


SCENARIO: Final = Scenario("connections", "idle connections cost little, and silent ones are closed", run)
