"""A server without an auth file, which lets abusers in, and an honest client beside them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

import grpc.aio

from blockyard import Client
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc
from tests.harness.process import ServerProcess

FLEET: Final = "gpu"
PAUSE_S: Final = 0.01
OWN: Final = (("grpc.use_local_subchannel_pool", 1),)


@contextmanager
def plain_server(folder: Path, *, instances: int = 1, **settings: Any) -> Iterator[ServerProcess]:
    """It runs, and has a fleet of instances with many labels: 16 kB of each in a list."""
    labels = {f"key-{number:02}": "x" * 240 for number in range(64)}
    with ServerProcess(folder, **settings) as process:
        process.start()
        with Client(process.address) as client:
            client.create_fleet(FLEET)
            for number in range(instances):
                client.create_instance(FLEET, f"node-{number}", total_blocks=64, labels=labels)
        yield process


def memory_mib(process: ServerProcess, line: str = "VmRSS") -> float:
    """Of the server process; `VmHWM` is the most that it had since `forget_peak`."""
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(each.split()[1]) / 1024 for each in status if each.startswith(line))


def forget_peak(process: ServerProcess) -> None:
    """`VmHWM` counts from now on."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


async def honest_calls(address: str, until: "asyncio.Future[Any]") -> list[float]:
    """How long each call of an honest client takes, in seconds, until something is over; at least one."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(address, options=OWN) as channel:
        stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
        request = pb.AcquireRequest(
            fleet=f"fleets/{FLEET}",
            idempotency_token="honest",
            holder="job",
            demands=[pb.Demand(blocks=1)],
            validate_only=True,
        )
        while not took or not until.done():
            began_s = monotonic()
            await stub.Acquire(request, timeout=60)
            took.append(monotonic() - began_s)
            await asyncio.sleep(PAUSE_S)
    return took


async def honest_for(address: str, seconds: float) -> list[float]:
    """The same for a time, in seconds."""
    return await honest_calls(address, asyncio.ensure_future(asyncio.sleep(seconds)))
