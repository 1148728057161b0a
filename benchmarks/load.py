"""Closed-loop load from one process: so many calls in flight for so long, each answer awaited before the next call."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from blockyard.v1 import allocator_pb2 as pb

FLEET = "fleets/bench"
DRAIN_S: Final = 60.0
"""A server process that has not ended so long after its input did is killed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long is measured, and in the part `peers` what."""

    rounds: int = 5
    round_s: float = 1.5
    peers: tuple[str, ...] = ()
    """By their names in `benchmarks.peers.part`; empty: all."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server process says of itself: where it serves, how long its start took, its memory after it."""

    pid: int
    address: str
    echo: str
    start_s: float
    peak_mib: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: calls a second, and the latency of one call in milliseconds."""

    calls: int
    calls_per_s: float
    p50_ms: float
    p99_ms: float


@contextmanager
def server_process(store: Path | str) -> Iterator[Facts]:
    """A server process on a data file or a database's URL, drained at the end."""
    with child_process("benchmarks.server", str(store)) as said:
        yield Facts(**said)


@contextmanager
def child_process(module: str, *arguments: str, modules: Path | None = None) -> Iterator[dict[str, Any]]:
    """A Python process of ours that says in one line of JSON that it serves, and drains at the end of its input.

    `modules` is a folder with more that it may import.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ if modules is None else {**os.environ, "PYTHONPATH": str(modules)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    if process.stdout is None or process.stdin is None:
        message = "the server process has no pipes"
        raise RuntimeError(message)
    try:
        line = process.stdout.readline()
        if not line:
            message = f"the server process {module} did not start"
            raise RuntimeError(message)
        yield json.loads(line)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=DRAIN_S)
        process.stdout.close()


Pair = Callable[[str], Awaitable[tuple[float, float]]]
"""One Acquire and its Release with this token; answers the seconds that each took."""


def pair_of_calls(channel: grpc.aio.Channel, service: str, demand: pb.Demand | None = None) -> Pair:
    """An Acquire and Release pair on `service`, which is Blockyard's or the echo's."""
    acquire = channel.unary_unary(
        f"/{service}/Acquire",
        request_serializer=pb.AcquireRequest.SerializeToString,
        response_deserializer=pb.AcquireResponse.FromString,
    )
    release = channel.unary_unary(
        f"/{service}/Release",
        request_serializer=pb.ReleaseRequest.SerializeToString,
        response_deserializer=pb.ReleaseResponse.FromString,
    )
    demands = [demand or pb.Demand(blocks=1)]

    async def pair(token: str) -> tuple[float, float]:
        began = time.perf_counter()
        request = pb.AcquireRequest(fleet=FLEET, idempotency_token=token, holder="job-1234567", demands=demands)
        answer = await acquire(request)
        between = time.perf_counter()
        await release(pb.ReleaseRequest(name=answer.allocation.name))
        return between - began, time.perf_counter() - between

    return pair


_tokens = itertools.count()
_run = time.time_ns()


async def closed_loop(pair: Pair, in_flight: int, seconds: float) -> Measured:
    """Pairs of calls, `in_flight` at a time, for `seconds`; at least one of each, however short or late that is."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def worker() -> None:
        while True:
            latencies.extend(await pair(f"bench-{_run}-{next(_tokens)}"))
            if time.perf_counter() >= end:
                return

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return summed_up(latencies, time.perf_counter() - began)


def summed_up(latencies: list[float], seconds: float) -> Measured:
    """A run's figures out of the seconds that each call took."""
    ordered = sorted(latencies)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Measured(len(ordered), len(ordered) / seconds, ordered[len(ordered) // 2] * 1000, p99 * 1000)


def median(runs: list[Measured]) -> Measured:
    """The run with the median throughput."""
    return sorted(runs, key=lambda run: run.calls_per_s)[len(runs) // 2]
