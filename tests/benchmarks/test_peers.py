import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.load import child_process
from benchmarks.peers.one_request import decode_answer
from benchmarks.peers.ours import NAME_ON_SQLITE
from benchmarks.peers.peer import BLOCKS, NotTrue
from benchmarks.peers.proof import fills_and_empties
from benchmarks.peers.verdict import verdict
from benchmarks.postgres import postgres, sqlalchemy_url
from benchmarks.processes import ProgramFailed, cpu_us, program, wait_until
from blockyard.v1 import allocator_pb2 as pb

WORKED_US = 200_000
TICKS_US = 50_000
"""The system counts in ticks of 10 ms, for each process and for its own work and the system's, and rounds them down."""
# A child that works so long by its own account and ends, in a process that waits for it and lives on.
FAMILY = f"""
import subprocess, sys
work = "import time\\nwhile time.process_time_ns() < {WORKED_US + TICKS_US} * 1000: pass"
subprocess.run([sys.executable, "-c", work], check=True)
print("done", flush=True)
sys.stdin.read()
"""


def test_the_cpu_time_of_a_process_includes_that_of_its_ended_children() -> None:
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"

        assert cpu_us(process.pid) >= WORKED_US

        process.stdin.close()


def test_a_program_that_ends_instead_of_serving_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        program([sys.executable, "-c", "raise SystemExit('no such database')"], log) as process,
        pytest.raises(ProgramFailed, match="no such database"),
    ):
        wait_until(lambda: False, process, log, bound_s=60)


def test_an_http_answer_that_was_cut_is_none() -> None:
    whole = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"

    assert decode_answer(whole).status == 409
    assert decode_answer(whole).json() == {}
    with pytest.raises(ValueError, match="not a whole answer"):
        decode_answer(whole[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fleet", "instance"])
async def test_the_plain_service_grants_each_block_once_in_either_way_to_lock(way: str) -> None:
    instances = 2
    with postgres() as database:
        arguments = (way, sqlalchemy_url(database, "psycopg"), str(instances))
        with child_process("benchmarks.peers.plain_service", *arguments) as said:
            async with grpc.aio.insecure_channel(said["address"]) as channel:
                await fills_and_empties(channel, capacity=instances * BLOCKS)


async def test_the_proof_sees_a_block_that_is_granted_to_all() -> None:
    async with generous_allocator() as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(NotTrue, match="claims of 8 blocks were granted"):
            await fills_and_empties(channel, capacity=8)


@asynccontextmanager
async def generous_allocator() -> AsyncIterator[str]:
    async def acquire(request: pb.AcquireRequest, _context: object) -> pb.AcquireResponse:
        answer = pb.AcquireResponse()
        answer.allocation.name = f"fleets/bench/allocations/{request.idempotency_token}"
        answer.allocation.placements.add(instance="fleets/bench/instances/node-000000", blocks=[0])
        return answer

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        acquire,
        request_deserializer=pb.AcquireRequest.FromString,
        response_serializer=pb.AcquireResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("blockyard.v1.Allocator", {"Acquire": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def test_a_goal_is_judged_by_the_shares_of_the_echo_and_left_out_when_a_side_is_missing() -> None:
    rows: list[dict[str, Any]] = [
        {"what": NAME_ON_SQLITE, "in flight": 64, "of echo": 0.6, "p50/echo's": 1.5},
        {"what": "Placement, SQLite: claim", "in flight": 64, "of echo": 0.01, "p50/echo's": 90.0},
        {"peer": "etcd", "not measured": "etcd is not on this machine"},
    ]

    assert [(row["wanted"], row["got"], row["reached"]) for row in verdict(rows)] == [
        ("at least 0.8", 0.6, "no"),
        ("at least 50", 60.0, "yes"),
    ]
