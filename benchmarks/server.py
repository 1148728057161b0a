"""The server process of the benchmarks: Blockyard on SQLite or PostgreSQL, and beside it an echo of the same messages.

The echo is the ceiling: the same gRPC stack and messages, decoded and encoded, and nothing in between.
BLOCKYARD_MAX_LINGER_S is the setting of that name, to measure others than its default.
`python -m benchmarks.server STORE` prints one line of JSON when it serves, and drains at the end of its input. STORE is
a data file or a `postgresql://` URL.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop

from blockyard.v1 import allocator_pb2
from blockyard_server.app import running_server, spare_the_collector
from blockyard_server.settings import Settings


def _peak_and_present_mib() -> tuple[float, float]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return (int(status["VmHWM"].split()[0]) / 1024, int(status["VmRSS"].split()[0]) / 1024)


def _echo_handler() -> grpc.GenericRpcHandler:
    acquired = allocator_pb2.AcquireResponse(revision=1)
    acquired.allocation.name = "fleets/bench/allocations/1234567"
    acquired.allocation.holder = "job-1234567"
    acquired.allocation.placements.add(instance="fleets/bench/instances/node-000001", blocks=[3])
    acquired.allocation.grant_time.GetCurrentTime()
    acquired.server_time.GetCurrentTime()
    released = allocator_pb2.ReleaseResponse(allocation=acquired.allocation, revision=2)

    async def acquire(_request: allocator_pb2.AcquireRequest, _context: object) -> allocator_pb2.AcquireResponse:
        return acquired

    async def release(_request: allocator_pb2.ReleaseRequest, _context: object) -> allocator_pb2.ReleaseResponse:
        return released

    return grpc.method_handlers_generic_handler(
        "blockyard.bench.Echo",
        {
            "Acquire": grpc.unary_unary_rpc_method_handler(
                acquire,
                request_deserializer=allocator_pb2.AcquireRequest.FromString,
                response_serializer=allocator_pb2.AcquireResponse.SerializeToString,
            ),
            "Release": grpc.unary_unary_rpc_method_handler(
                release,
                request_deserializer=allocator_pb2.ReleaseRequest.FromString,
                response_serializer=allocator_pb2.ReleaseResponse.SerializeToString,
            ),
        },
    )


def _settings(store: str) -> Settings:
    place: dict[str, Any] = {"database": store} if store.startswith("postgresql://") else {"data": Path(store)}
    linger = os.environ.get("BLOCKYARD_MAX_LINGER_S")
    changes: dict[str, Any] = {} if linger is None else {"max_linger_s": float(linger)}
    return Settings(listen="127.0.0.1:0", restart_grace_s=0, **place, **changes)


async def main(store: str) -> None:
    """Serves both until the input ends."""
    began = time.perf_counter()
    async with running_server(_settings(store)) as running:
        spare_the_collector()
        start_s = time.perf_counter() - began
        echo = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        echo.add_generic_rpc_handlers((_echo_handler(),))
        port = echo.add_insecure_port("127.0.0.1:0")
        await echo.start()
        peak, present = _peak_and_present_mib()
        facts = {
            "pid": os.getpid(),
            "address": running.address,
            "echo": f"127.0.0.1:{port}",
            "start_s": start_s,
            "peak_mib": peak,
            "rss_mib": present,
        }
        print(json.dumps(facts), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await echo.stop(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
