"""Reads whose callers have gone, and a stop behind them: it ends, and leaves nothing in other threads."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from blockyard_server.domain.formats import Formats
from blockyard_server.engine.reader_protocol import Reader
from blockyard_server.engine.reads import Reads
from blockyard_server.store.sqlite.store import SqliteStore

LIVES: Final = 40


@pytest.fixture
def raised_in_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException | None]]:
    raised: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: raised.append(failure.exc_value))
    yield raised
    assert raised == []


async def read_for_ever(reader: Reader) -> None:
    while True:
        await reader.formats()


async def live(data: Path, turns: int) -> int:
    """A store that opens, is read by callers that go in the middle, and closes. Answers how many reads were left."""
    store = SqliteStore(data)
    store.open()
    reads = Reads(store, Formats())
    callers = [asyncio.create_task(reads.run(read_for_ever)) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0.001)
    for caller in callers:
        caller.cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(failure) for failure in ended] == [asyncio.CancelledError] * len(callers)
    left = len(asyncio.all_tasks()) - 1
    await reads.settle()
    assert len(asyncio.all_tasks()) == 1, "a read has not ended"
    await store.close()
    return left


@pytest.mark.usefixtures("raised_in_threads")
def test_a_stop_waits_for_reads_whose_callers_have_gone(tmp_path: Path) -> None:
    left = 0
    for turns in range(LIVES):
        with asyncio.Runner() as runner:
            left += runner.run(live(tmp_path / "blockyard.db", turns))
    assert left > 0, "no read was under way when its caller went"
