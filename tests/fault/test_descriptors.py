"""More connections than file descriptors: new ones are closed at once, and the server keeps what it needs itself."""

import asyncio
import resource
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from blockyard import operations
from blockyard._allocator import describe_page, list_allocations
from blockyard._fleet_admin import create_fleet, create_instance, get_fleet, list_fleets
from blockyard._ledger import list_events, verify
from blockyard.enums import EventKind
from blockyard.errors import CallFailed
from blockyard_server import descriptors
from blockyard_server.descriptors import MOST_DESCRIPTORS, TooFewDescriptors, share_out
from blockyard_server.http_server import MAX_CONNECTIONS, OWN_DESCRIPTORS
from blockyard_server.settings import Settings
from tests.harness.in_process import serving
from tests.harness.one_shot import OneShotClient
from tests.harness.patience import eventually
from tests.harness.process import ServerProcess, StartFailed, free_port

LIMIT: Final = 256
CROWD: Final = 400


def with_limit(server: ServerProcess, limit: int) -> None:
    """Its next process may have so many descriptors, and cannot raise that."""
    server.program = ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', *server.program]


async def connect(port: int) -> asyncio.StreamWriter | None:
    """A connection that stays silent; None if the server has closed it at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        said = await reader.read(9)
    except ConnectionError:
        said = b""
    if said:
        return writer
    writer.close()
    return None


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the data is, as settings."""
    return {} if request.param == "sqlite" else {"database": request.getfixturevalue("database")}


@pytest.mark.timeout(90)
async def test_a_crowd_of_connections_takes_no_descriptor_that_the_server_needs(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    metrics = free_port()
    with ServerProcess(
        tmp_path,
        log_level="INFO",
        sweep_interval_s=0.05,
        audit_interval_s=0.05,
        ops_listen=f"127.0.0.1:{metrics}",
        **place,
    ) as server:
        with_limit(server, LIMIT)
        await asyncio.to_thread(server.start)
        async with OneShotClient(server.address) as old:
            await old.send(create_fleet("gpu"))
            await old.send(create_instance("gpu", "n1", total_blocks=8))
            crowd = [await connect(server.port) for _ in range(CROWD)]
            accepted = [writer for writer in crowd if writer is not None]
            assert LIMIT / 8 < len(accepted) < LIMIT, "connections were limited, below the descriptors"
            await old.send(operations.acquire("gpu", holder="short", blocks=1, ttl=1))
            for read in (
                describe_page("gpu"),
                get_fleet("gpu"),
                verify("gpu"),
                list_fleets().page(""),
                list_allocations("gpu").page(""),
            ):
                await old.send(read)  # once, without a retry

            async def swept() -> bool:
                page = await old.send(list_events("gpu").page(""))
                return any(event.kind is EventKind.EXPIRED for event in page.items)

            async def audited() -> bool:
                return await asyncio.to_thread(_count, metrics, "blockyard_audit_steps_total") > steps

            steps = await asyncio.to_thread(_count, metrics, "blockyard_audit_steps_total")
            await eventually(swept, "the sweeper ended the lease")
            await eventually(audited, "the background verification went on")
        for writer in accepted:
            writer.close()

        async def anew() -> bool:
            async with OneShotClient(server.address) as new:
                return not isinstance(await new.start(get_fleet("gpu")).outcome(), CallFailed)

        await eventually(anew, "a new connection was served")
        assert server.terminate() == 0
        lines = server.errors().splitlines()
    assert f"this process may open {LIMIT} files" in lines[0]
    assert not [line for line in lines if " INFO " not in line]


def _count(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    [found] = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return float(found)


def test_a_server_that_could_hardly_accept_anybody_says_so_and_does_not_start(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        with_limit(server, 100)
        with pytest.raises(StartFailed, match=r"may open 100 files, the server itself needs \d+, .* raise the limit"):
            server.start()
    assert not server.data.exists()


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """A soft limit far below the hard one, as systems have by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_the_hard_one_within_reason(soft_limit: int) -> None:
    shared = share_out(Settings())
    assert shared.limit == min(soft_limit, MOST_DESCRIPTORS)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == shared.limit


def test_connections_are_limited_by_the_setting_and_by_what_the_server_needs(soft_limit: int) -> None:
    few = share_out(Settings(max_connections=100))
    many = share_out(Settings(max_connections=60_000))
    assert soft_limit > 0
    assert few.connections == 100
    assert many.connections == min(60_000, many.limit - many.own)
    assert share_out(Settings(readers=64)).own > few.own
    assert share_out(Settings(ops_listen="127.0.0.1:0")).own == few.own + OWN_DESCRIPTORS
    assert share_out(Settings(database="postgresql://h/d")).own > few.own


def test_what_others_have_opened_counts_as_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    before = share_out(Settings()).own
    monkeypatch.setattr(descriptors, "open_now", lambda: 60_000)
    with pytest.raises(TooFewDescriptors):
        share_out(Settings())
    monkeypatch.undo()
    assert share_out(Settings()).own == before


async def test_silent_connections_to_the_metrics_are_bounded_and_scrapes_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as running:
        assert running.ops_address is not None
        port = int(running.ops_address.rpartition(":")[2])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]

        async def one_more_is_closed() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            try:
                return await reader.read() == b""
            except ConnectionError:
                return True
            finally:
                writer.close()

        assert await one_more_is_closed()
        for _, writer in silent:
            writer.close()

        async def served() -> bool:
            return not await one_more_is_closed()

        await eventually(served, "a scrape was answered")
