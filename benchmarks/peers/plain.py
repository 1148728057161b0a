"""The plain service (plain_service.py) on a PostgreSQL of its own, in its two ways to lock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc

from benchmarks.load import child_process, pair_of_calls
from benchmarks.peers.packages import folder_of_modules
from benchmarks.peers.peer import INSTANCES, Peer
from benchmarks.peers.proof import fills_and_empties
from benchmarks.postgres import pid_of, postgres, sqlalchemy_url

PACKAGES: Final = ("asyncpg==0.32.0",)
"""The driver that took the least CPU time: two thirds of what the service took with psycopg, half of PostgreSQL's."""


@asynccontextmanager
async def plain_locking_the_fleet(_folder: Path) -> AsyncIterator[list[Peer]]:
    """Each request locks the fleet's row. Raises NotHere."""
    async with _plain("fleet", "plain FOR UPDATE") as peers:
        yield peers


@asynccontextmanager
async def plain_skipping_locked(_folder: Path) -> AsyncIterator[list[Peer]]:
    """Each request locks an instance's row that nobody else has locked. Raises NotHere."""
    async with _plain("instance", "plain SKIP LOCKED") as peers:
        yield peers


@asynccontextmanager
async def _plain(way: str, name: str) -> AsyncIterator[list[Peer]]:
    modules = folder_of_modules("plain", PACKAGES)
    with postgres() as database:
        arguments = (way, sqlalchemy_url(database, "asyncpg"), str(INSTANCES))
        with child_process("benchmarks.peers.plain_service", *arguments, modules=modules) as said:
            async with grpc.aio.insecure_channel(said["address"]) as channel:
                processes = {"server": said["pid"], "PostgreSQL": pid_of(database)}
                pair = pair_of_calls(channel, "blockyard.v1.Allocator")
                yield [Peer(name, pair, processes, lambda: fills_and_empties(channel))]
