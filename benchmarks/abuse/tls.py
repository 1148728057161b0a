"""What TLS costs a call and a connection, and what a client sees of a certificate that changes."""

import asyncio
import ssl
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from socket import create_connection
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio
from cryptography import x509

from benchmarks.processes import cpu_us
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc, fleet_admin_pb2, fleet_admin_pb2_grpc
from tests.harness.process import ServerProcess, free_port
from tests.tls.authorities import HOST, Authorities, replace

FLEET: Final = "gpu"
IN_FLIGHT: Final = 16
ROUND_S: Final = 0.6
HANDSHAKES_PER_S: Final = 500
CLIENTS: Final = 4
"""Each makes a connection for each of its calls, while the certificate changes."""
SEEN_S: Final = 5.0


class Servers:
    """One with TLS on two ports, with and without client certificates, and one in plaintext."""

    def __init__(self, scale: Scale, stack: ExitStack) -> None:
        self.authorities = Authorities(scale.folder)
        self.client = self.authorities.clients.issue_cert("scheduler")
        files, mtls = self.authorities.files, f"127.0.0.1:{free_port()}"
        listeners = files.settings(mtls_listen=mtls, tls_client_ca=files.client_ca)
        self.tls = stack.enter_context(ServerProcess(scale.folder / "tls", **listeners))
        self.plain = stack.enter_context(ServerProcess(scale.folder / "plain"))
        self.addresses = {"plaintext": self.plain.address, "TLS": self.tls.address, "client certificates": mtls}
        self.tls.start()
        self.plain.start()

    def channel(self, listener: str) -> grpc.aio.Channel:
        """A connection of its own."""
        address = self.addresses[listener]
        if listener == "plaintext":
            return grpc.aio.insecure_channel(address)
        return self.authorities.channel(address, self.client if listener == "client certificates" else None)


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of all three."""
    with ExitStack() as stack:
        servers = Servers(scale, stack)
        figures = asyncio.run(_calls(servers, scale.of(20, 3)))
        figures += _handshakes(servers, scale.of(2000, 200))
        return figures + asyncio.run(_changes(servers, scale.of(5, 2)))


async def _calls(servers: Servers, rounds: int) -> list[Figure]:
    """A call over each listener, over one in plaintext, in turns."""
    ratios: dict[str, list[float]] = {"TLS": [], "client certificates": []}
    async with AsyncExitStack() as stack:
        channels = {name: await stack.enter_async_context(servers.channel(name)) for name in servers.addresses}
        for name in ("plaintext", "TLS"):
            admin: Any = fleet_admin_pb2_grpc.FleetAdminStub(channels[name])
            await admin.CreateFleet(fleet_admin_pb2.CreateFleetRequest(fleet_id=FLEET))
        for _ in range(rounds):
            plain = await _calls_per_s(channels["plaintext"])
            for name, each in ratios.items():
                each.append(plain / await _calls_per_s(channels[name]))
    limits = {"TLS": 1.15, "client certificates": 1.2}
    return [
        Figure(f"a call with {name}, over one in plaintext", statistics.median(each), "", at_most=limits[name])
        for name, each in ratios.items()
    ]


async def _calls_per_s(channel: grpc.aio.Channel) -> float:
    stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
    request = pb.DescribeRequest(fleet=f"fleets/{FLEET}", page_size=1)
    until_s, done = monotonic() + ROUND_S, 0

    async def caller() -> None:
        nonlocal done
        while monotonic() < until_s:
            await stub.Describe(request)
            done += 1

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return done / ROUND_S


def _handshakes(servers: Servers, count: int) -> list[Figure]:
    """The server's share of a core for 500 new connections a second."""
    figures = []
    for name in ("TLS", "client certificates"):
        context = ssl.create_default_context(cadata=servers.authorities.servers.cert_pem.bytes().decode())
        context.set_alpn_protocols(["h2"])
        if name == "client certificates":
            servers.client.configure_cert(context)
        before_us = cpu_us(servers.tls.pid)
        for _ in range(count):
            _certificate(servers.addresses[name], context)
        each_us = (cpu_us(servers.tls.pid) - before_us) / count
        share = each_us * HANDSHAKES_PER_S / 1_000_000
        figures.append(
            Figure(f"{HANDSHAKES_PER_S} handshakes a second, {name}", 100 * share, "% of a core", at_most=60)
        )
    return figures


def _certificate(address: str, context: ssl.SSLContext) -> bytes:
    """Makes a connection until the server has answered with HTTP/2; the certificate that it was shown."""
    host, _, port = address.rpartition(":")
    with create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=HOST) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        connection.recv(9)
        return connection.getpeercert(binary_form=True) or b""


async def _changes(servers: Servers, times: int) -> list[Figure]:
    """Clients that make a connection for each call, while the certificate is replaced, and in the end broken."""
    calls = failed = 0
    ending = asyncio.Event()

    async def go_on() -> None:
        nonlocal calls, failed
        while not ending.is_set():
            async with servers.channel("TLS") as channel:
                stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
                try:
                    await stub.Describe(pb.DescribeRequest(fleet=f"fleets/{FLEET}", page_size=1), timeout=30)
                except grpc.aio.AioRpcError:
                    failed += 1
            calls += 1

    clients = [asyncio.create_task(go_on()) for _ in range(CLIENTS)]
    seen_s = [await _renewed_after_s(servers) for _ in range(times)]
    last = await _shown(servers)
    replace(servers.authorities.files.key, b"no key")
    before = calls
    await asyncio.sleep(3)  # two looks, a second apart
    beside = calls - before
    is_shown = await _shown(servers) == last
    ending.set()
    await asyncio.gather(*clients)
    counted = servers.tls.errors().count("the new certificate is not taken, the one before goes on")
    return [
        Figure(f"{times} new certificates: each seen after", max(seen_s), "s at most", at_most=SEEN_S),
        Figure("then a broken one: the last one is shown", int(is_shown), "", at_least=1, kind="count"),
        Figure("  it is told in the log", counted, "times", at_least=1, at_most=1, kind="count"),
        Figure("  connections meanwhile", beside, "", at_least=1, kind="count"),
        Figure("calls over new connections in all", calls, ""),
        Figure("  failed", failed, "", at_most=0, kind="count"),
    ]


async def _renewed_after_s(servers: Servers) -> float:
    """Replaces the certificate; how long it takes until it is shown. Raises TimeoutError after half a minute."""
    new = x509.load_pem_x509_certificate(servers.authorities.renew().cert_chain_pems[0].bytes())
    began_s = monotonic()
    async with asyncio.timeout(6 * SEEN_S):
        while await _shown(servers) != new:
            pass
    return monotonic() - began_s


async def _shown(servers: Servers) -> x509.Certificate:
    context = ssl.create_default_context(cadata=servers.authorities.servers.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2"])
    return x509.load_der_x509_certificate(await asyncio.to_thread(_certificate, servers.addresses["TLS"], context))


SCENARIO: Final = Scenario("tls", "TLS costs little, and a certificate that changes disturbs nobody", run)
