"""Fills a data file before a measurement, through the engine's own transactions, without a network."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    Demand,
    FleetFields,
    InstanceFields,
    Request,
)
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.transactor import Transactor
from blockyard_server.store.sqlite.store import SqliteStore

_BATCH = 2000
LABEL_CLASSES = 50


async def fill(data: Path, *, instances: int, blocks: int, allocations: int = 0) -> None:
    """Makes a fleet `bench` with so many instances of `blocks` blocks, and so many live allocations of one block.

    Each instance is in one of 50 label classes and has a hostname label of its own.
    """
    store = SqliteStore(data)
    store.open()
    transactor = Transactor(store, SystemClock())
    for batch in _batches(_requests(instances, blocks, allocations)):
        transactor.carry_out("bench", batch)
    await store.close()


def _requests(instances: int, blocks: int, allocations: int) -> Iterator[Request]:
    yield CreateFleet("bench", FleetFields())
    for number in range(instances):
        name = f"node-{number:06d}"
        labels = {"class": f"c{number % LABEL_CLASSES}", "hostname": name}
        yield CreateInstance("bench", name, InstanceFields(blocks, labels))
    for number in range(allocations):
        yield Acquire("bench", "default", f"fill-{number}", f"job-{number}", (Demand(blocks=1),))


def _batches(requests: Iterable[Request]) -> Iterator[list[Request]]:
    rest = iter(requests)
    while batch := list(islice(rest, _BATCH)):
        yield batch
