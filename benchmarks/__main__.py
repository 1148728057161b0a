"""Runs the benchmarks and prints what was measured. Figures of different runs are not to be compared."""

import argparse
import asyncio
import json
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.fill import fill
from benchmarks.load import FLEET, Facts, Measured, Plan, closed_loop, median, pair_of_calls, server_process
from benchmarks.peers.part import PEERS, peers
from blockyard.v1 import allocator_pb2 as pb

ALLOCATOR = "blockyard.v1.Allocator"
ECHO = "blockyard.bench.Echo"
WARM_UP_S = 0.3
LOG_WARM_UP_S = 2.0

Row = dict[str, Any]
console = Console(width=130)


async def unary(folder: Path, plan: Plan) -> list[Row]:
    """Acquire and Release against the echo at 1, 16, 64 and 256 in flight, in alternating rounds."""
    data = folder / "unary.db"
    await fill(data, instances=100, blocks=8)
    rows = []
    with server_process(data) as facts:
        for in_flight in (1, 16, 64, 256):
            echoes, ours = await _alternate(plan, facts, in_flight)
            echo, own = median(echoes), median(ours)
            ratios = sorted(o.calls_per_s / e.calls_per_s for e, o in zip(echoes, ours, strict=True))
            rows.append(
                {
                    "what": f"Acquire+Release, {in_flight} in flight",
                    "echo_per_s": round(echo.calls_per_s),
                    "echo_p50_ms": round(echo.p50_ms, 2),
                    "per_s": round(own.calls_per_s),
                    "p50_ms": round(own.p50_ms, 2),
                    "p99_ms": round(own.p99_ms, 2),
                    "share_of_echo": round(ratios[len(ratios) // 2], 2),
                    "p50_over_echo": round(own.p50_ms / echo.p50_ms, 2),
                }
            )
    return rows


async def _alternate(
    plan: Plan, facts: Facts, in_flight: int, demand: pb.Demand | None = None
) -> tuple[list[Measured], list[Measured]]:
    echoes: list[Measured] = []
    ours: list[Measured] = []
    async with grpc.aio.insecure_channel(facts.echo) as echo, grpc.aio.insecure_channel(facts.address) as own:
        echo_pair, own_pair = pair_of_calls(echo, ECHO, demand), pair_of_calls(own, ALLOCATOR, demand)
        await closed_loop(echo_pair, in_flight, WARM_UP_S)
        # Until the write-ahead log has its full length: as long as it grows, the file system makes each sync dearer.
        await closed_loop(own_pair, 1, LOG_WARM_UP_S)
        await closed_loop(own_pair, in_flight, WARM_UP_S)
        for _ in range(plan.rounds):
            echoes.append(await closed_loop(echo_pair, in_flight, plan.round_s))
            ours.append(await closed_loop(own_pair, in_flight, plan.round_s))
    return echoes, ours


async def batch(folder: Path, plan: Plan) -> list[Row]:
    """Batches of 100 acquires and of 100 releases, four in flight, against the unary echo at 64 in flight."""
    data = folder / "batch.db"
    await fill(data, instances=1000, blocks=8)
    with server_process(data) as facts:
        echoes, _ = await _alternate(plan, facts, 64)
        async with grpc.aio.insecure_channel(facts.address) as channel:
            runs = [await _batch_round(channel, plan, number) for number in range(plan.rounds)]
    rate = sorted(runs)[len(runs) // 2]
    echo = median(echoes).calls_per_s
    return [
        {
            "what": "Batch of 100, allocations granted and released",
            "echo_per_s": round(echo),
            "per_s": round(rate),
            "share_of_echo": round(rate / echo, 2),
        }
    ]


async def _batch_round(channel: grpc.aio.Channel, plan: Plan, number: int) -> float:
    call = channel.unary_unary(
        f"/{ALLOCATOR}/Batch",
        request_serializer=pb.BatchRequest.SerializeToString,
        response_deserializer=pb.BatchResponse.FromString,
    )
    end = time.perf_counter() + plan.round_s
    operations = 0

    async def worker(worker_number: int) -> None:
        nonlocal operations
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            acquires = pb.BatchRequest()
            for i in range(100):
                acquire = acquires.operations.add().acquire
                acquire.fleet, acquire.holder = FLEET, "job-1234567"
                acquire.idempotency_token = f"batch-{number}-{worker_number}-{turn}-{i}"
                acquire.demands.add(blocks=1)
            granted = await call(acquires)
            releases = pb.BatchRequest()
            for result in granted.results:
                releases.operations.add().release.name = result.acquire.allocation.name
            await call(releases)
            operations += len(acquires.operations) + len(releases.operations)

    began = time.perf_counter()
    await asyncio.gather(*(worker(n) for n in range(4)))
    return operations / (time.perf_counter() - began)


async def instances(folder: Path, plan: Plan) -> list[Row]:
    """Acquire alone on fleets of 100, 10,000 and 100,000 instances, asked for by label class and by hostname."""
    by_class, by_host = pb.Demand(blocks=1), pb.Demand(blocks=1)
    by_class.selector.match_labels["class"] = "c7"
    by_host.selector.match_labels["hostname"] = "node-000042"
    sizes = (100, 10_000, 100_000)
    for size in sizes:
        await fill(folder / f"{size}.db", instances=size, blocks=8)
    return await _alone_on(
        plan,
        [(f"{size:,} instances", folder / f"{size}.db") for size in sizes],
        [("any", pb.Demand(blocks=1)), ("by class", by_class), ("by hostname", by_host)],
    )


async def live_allocations(folder: Path, plan: Plan) -> list[Row]:
    """Acquire alone with no and with a million live allocations, on 20,000 instances of 64 blocks; start, memory."""
    counts = (0, 1_000_000)
    for count in counts:
        await fill(folder / f"live-{count}.db", instances=20_000, blocks=64, allocations=count)
    cases = [(f"{count:,} live allocations", folder / f"live-{count}.db") for count in counts]
    return await _alone_on(plan, cases, [("any", pb.Demand(blocks=1))])


async def _alone_on(plan: Plan, cases: list[tuple[str, Path]], demands: list[tuple[str, pb.Demand]]) -> list[Row]:
    """Each case's p50 over that of the first, measured in alternating rounds by servers that run side by side."""
    rows: list[Row] = []
    p50s: dict[tuple[str, str], list[float]] = {}
    for name, data in cases:
        with server_process(data) as facts:
            row: Row = {"what": name, "start_s": round(facts.start_s, 2), "peak_mib": round(facts.peak_mib)}
            for kind, demand in demands:
                echoes, ours = await _alternate(plan, facts, 1, demand)
                ratio = median(ours).p50_ms / median(echoes).p50_ms
                p50s[name, kind] = [median(ours).p50_ms, ratio]
                row[f"p50_ms, {kind}"] = round(median(ours).p50_ms, 2)
                row[f"over echo, {kind}"] = round(ratio, 2)
                first = p50s[cases[0][0], kind]
                row[f"over first, {kind}"] = round(ratio / first[1], 2)
            rows.append(row)
    return rows


PARTS: dict[str, Callable[[Path, Plan], Coroutine[Any, Any, list[Row]]]] = {
    "unary": unary,
    "batch": batch,
    "instances": instances,
    "live_allocations": live_allocations,
    "peers": peers,
}


def main() -> None:
    """Runs the parts that were asked for."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="run only this part (may be repeated)")
    parser.add_argument("--peer", choices=PEERS, action="append", help="of the part peers, only this (may be repeated)")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="turns with the echo (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=usual.round_s, help="of one round (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end_in_order)
    plan = Plan(arguments.rounds, arguments.seconds, tuple(arguments.peer or ()))
    results: dict[str, list[Row]] = {}
    for name in arguments.only or PARTS:
        console.print(f"[bold]{name}[/] — {(PARTS[name].__doc__ or '').strip()}")
        with tempfile.TemporaryDirectory(prefix="blockyard-bench-") as folder:
            results[name] = uvloop.run(PARTS[name](Path(folder), plan))
        for _, rows in groupby(results[name], key=tuple):
            console.print(_table(list(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _end_in_order(number: int, _frame: object) -> None:
    """As for Ctrl-C: what was started is ended, and its folders go."""
    raise SystemExit(128 + number)


def _table(rows: list[Row]) -> Table:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    return table


if __name__ == "__main__":
    main()
