"""etcd: one durable compare-and-swap transaction for each claim, and one for each release.

The server is Debian's `etcd-server`, one node, as durable as it is by default: its log is synced before each answer.
The client is `aetcd`: of the clients on PyPI it is the one that is asynchronous, stands on grpc.aio as our own does, so
that the client costs the same here as there, and still has releases (1.0 of June 2026).

A claim says: this key is not there, so put it. Two things are measured, as of Placement: the claim of a block that the
client has chosen already, and what our Acquire does, to find one (a read of the keys that are there) and to claim it.
In the first no claim is ever tried in vain, and in neither is there a token to look up or a journal.
"""

import asyncio
import importlib
import itertools
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.packages import folder_of_modules
from benchmarks.peers.peer import BLOCKS, INSTANCES, NotHere, NotTrue, Peer
from benchmarks.processes import free_port, listens, program, wait_until

PACKAGES: Final = ("aetcd==1.0.0",)
START_S: Final = 60.0
CALL_S: Final = 30
TRIES: Final = 100
RIVALS: Final = 64
_PREFIX: Final = b"blocks/"


@asynccontextmanager
async def etcd(folder: Path) -> AsyncIterator[list[Peer]]:
    """An etcd of its own. Raises NotHere, ProgramFailed."""
    server = shutil.which("etcd")
    if server is None:
        raise NotHere("etcd is not on this machine: apt-get install etcd-server")
    sys.path.append(str(folder_of_modules("etcd", PACKAGES)))
    library = importlib.import_module("aetcd")
    port, log = free_port(), folder / "etcd.log"
    with program(_command(server, folder / "etcd", port), log) as process:
        wait_until(lambda: listens(port), process, log, bound_s=START_S)
        async with library.Client(host="127.0.0.1", port=port, timeout=CALL_S) as client:
            blocks = _Blocks(client)
            pids = {"etcd": process.pid}
            yield [
                Peer("etcd: claim", blocks.claim_and_release, pids, blocks.prove),
                Peer("etcd: find, claim", blocks.find_claim_and_release, pids, blocks.prove),
            ]


def _command(server: str, data: Path, port: int) -> list[str | Path]:
    clients, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    return [
        *(server, "--name", "bench", "--data-dir", data, "--logger", "zap", "--log-level", "error"),
        *("--listen-client-urls", clients, "--advertise-client-urls", clients),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"bench={peers}"),
    ]


class _Blocks:
    """A key for each block that is held; its value is the claim's token."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._all = [b"%snode-%06d/%d" % (_PREFIX, node, block) for block in range(BLOCKS) for node in range(INSTANCES)]
        self._next = itertools.cycle(self._all)

    async def claim_and_release(self, token: str) -> tuple[float, float]:
        """Claims the next block, which nobody has, and releases it."""
        key, holder = next(self._next), token.encode()
        began = time.perf_counter()
        if not await self._claim(key, holder):
            raise NotTrue(f"{key!r} was claimed by somebody else")
        return time.perf_counter() - began, await self._seconds_of_release(key, holder)

    async def find_claim_and_release(self, token: str) -> tuple[float, float]:
        """Reads which blocks are held, claims one of the others until nobody was faster, and releases it."""
        holder = token.encode()
        began = time.perf_counter()
        for _ in range(TRIES):
            held = {found.key for found in (await self._client.get_prefix(_PREFIX, keys_only=True)).kvs}
            key = random.choice([key for key in self._all if key not in held])
            if await self._claim(key, holder):
                return time.perf_counter() - began, await self._seconds_of_release(key, holder)
        raise NotTrue("no block could be claimed")

    async def _seconds_of_release(self, key: bytes, holder: bytes) -> float:
        began = time.perf_counter()
        if not await self._release(key, holder):
            raise NotTrue(f"{key!r} was not held by the one who claimed it")
        return time.perf_counter() - began

    async def _claim(self, key: bytes, holder: bytes) -> bool:
        operations = self._client.transactions
        swapped, _ = await self._client.transaction(
            compare=[operations.create(key) == 0], success=[operations.put(key, holder)], failure=[]
        )
        return bool(swapped)

    async def _release(self, key: bytes, holder: bytes) -> bool:
        operations = self._client.transactions
        swapped, _ = await self._client.transaction(
            compare=[operations.value(key) == holder], success=[operations.delete(key)], failure=[]
        )
        return bool(swapped)

    async def prove(self) -> None:
        """Of many who claim one block at once, one has it, until the release; then nothing is held."""
        key, rivals = next(self._next), [b"rival-%d" % number for number in range(RIVALS)]
        claims = await asyncio.gather(*(self._claim(key, rival) for rival in rivals))
        held = [(found.key, found.value) for found in (await self._client.get_prefix(_PREFIX)).kvs]
        winners = [rival for rival, claimed in zip(rivals, claims, strict=True) if claimed]
        if len(winners) != 1 or held != [(key, winners[0])]:
            raise NotTrue(f"{winners} of {RIVALS} have {key!r}, and held is {held}")
        if not await self._release(key, winners[0]) or (await self._client.get_prefix(_PREFIX)).kvs:
            raise NotTrue(f"{key!r} is still held after its release")
