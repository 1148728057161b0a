"""What happens to a server's data file and disk: the server stops acknowledging, its health tells, its log says why."""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2

from blockyard import Client, NoCapacity, OutcomeUnknown, StoreDamaged, Unavailable
from tests.harness.process import ServerProcess

BOUND_S: Final = 30.0
BLOCKS: Final = 4096
DISK_BYTES: Final = 48 * 1024 * 1024
LARGE: Final = {"note": "x" * 1000}
"""So that a full disk is noticed soon."""


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[tuple[ServerProcess, Client]]:
    """A server with a fleet of one instance, and a client that gives up soon."""
    with ServerProcess(folder, **settings) as server:
        server.start()
        with Client(server.address, timeout_s=6) as client:
            client.create_fleet("gpu")
            client.create_instance("gpu", "n1", total_blocks=BLOCKS)
            yield server, client


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own that can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """So many bytes are left."""
    junk = disk / "junk"
    with junk.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - left))
    try:
        yield
    finally:
        junk.unlink()


def health(server: ServerProcess) -> str:
    with grpc.insecure_channel(server.address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        answer = check(health_pb2.HealthCheckRequest(), timeout=BOUND_S)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def wait_for_health(server: ServerProcess, wanted: str) -> None:
    deadline = time.monotonic() + BOUND_S
    while health(server) != wanted:
        assert time.monotonic() < deadline, f"health never becomes {wanted}: {server.errors()}"
        time.sleep(0.05)


def acknowledged(client: Client, count: int) -> list[str]:
    """The names of so many grants of a block, or fewer if the server stops acknowledging."""
    names: list[str] = []
    while len(names) < count:
        try:
            grant = client.acquire("gpu", blocks=1, holder="job", annotations=LARGE)
        except (OutcomeUnknown, Unavailable):
            break
        names.append(grant.allocation.name)
    return names


def remove(data: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        data.with_name(data.name + suffix).unlink()


def rename(data: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        data.with_name(data.name + suffix).rename(data.with_name(data.name + suffix + ".old"))


def rename_the_folder(data: Path) -> None:
    data.parent.rename(data.parent.with_name("elsewhere"))


def restore_a_backup(data: Path) -> None:
    with closing(sqlite3.connect(data)) as db:
        db.execute("VACUUM INTO ?", (str(data.with_name("backup")),))
    data.with_name("backup").replace(data)


@pytest.mark.parametrize(
    "act",
    [remove, *(pytest.param(act, marks=pytest.mark.slow) for act in (rename, rename_the_folder, restore_a_backup))],
)
def test_a_file_that_goes_is_noticed_and_nothing_is_acknowledged_into_nothing(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    with served(tmp_path / "folder") as (server, client):
        assert len(acknowledged(client, 20)) == 20
        log = server._stderr.open()  # before its name goes
        act(server.data)
        before = sorted(tmp_path.rglob("*"))
        assert acknowledged(client, 1) == []
        wait_for_health(server, "NOT_SERVING")
        with pytest.raises(Unavailable):
            client.describe("gpu")
        assert sorted(tmp_path.rglob("*")) == before, "a file was made"
        assert "while the server had it open: the server does no more work until" in log.read()
        log.close()


def test_an_idle_server_notices_that_its_file_went(tmp_path: Path) -> None:
    with served(tmp_path) as (server, _):
        rename(server.data)
        wait_for_health(server, "NOT_SERVING")


def test_a_damaged_file_is_told_from_one_that_is_away_and_stops_all(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        acknowledged(client, 200)
        assert server.terminate() == 0
        server.start()
        client.describe("gpu")
        with server.data.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        with pytest.raises(StoreDamaged, match="restored from a backup"):
            client.verify("gpu")
        with pytest.raises(StoreDamaged):
            client.acquire("gpu", blocks=1, holder="job")
        with pytest.raises(StoreDamaged):
            client.repair("gpu")
        wait_for_health(server, "NOT_SERVING")
        assert "malformed: the server does no more work until" in server.errors()


@pytest.mark.slow
def test_health_tells_that_another_program_keeps_the_file_locked(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        with closing(sqlite3.connect(server.data, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert acknowledged(client, 1) == []
            wait_for_health(server, "NOT_SERVING")
            assert "database is locked" in server.errors()
            other.execute("ROLLBACK")
        wait_for_health(server, "SERVING")
        assert len(acknowledged(client, 1)) == 1


def test_health_tells_that_the_disk_is_full_and_recovers_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    with served(tmp_path, data=small_disk / "blockyard.db") as (server, client):
        names = acknowledged(client, 50)
        with filled(small_disk, 300_000):
            names += acknowledged(client, BLOCKS - 50)
            assert len(names) < BLOCKS, "the disk never became full"
            wait_for_health(server, "NOT_SERVING")
            assert "database or disk is full" in server.errors()
            assert client.describe("gpu").totals.busy_blocks >= len(names)
        wait_for_health(server, "SERVING")
        names += acknowledged(client, 1)
        assert client.verify("gpu").clean
        assert {client.get_allocation(name).holder for name in names} == {"job"}


@pytest.mark.parametrize("left", [0, *(pytest.param(left, marks=pytest.mark.slow) for left in (20_000, 300_000))])
def test_a_killed_server_starts_on_a_full_disk_and_has_everything(tmp_path: Path, small_disk: Path, left: int) -> None:
    with served(tmp_path, data=small_disk / "blockyard.db") as (server, client):
        names = acknowledged(client, 100)
        lease = client.acquire("gpu", blocks=1, holder="leased", ttl=600).allocation
        server.kill()
        with filled(small_disk, left):
            server.start()
            busy = client.describe("gpu").totals.busy_blocks
            assert busy == len(names) + 1
        wait_for_health(server, "SERVING")
        assert len(acknowledged(client, 1)) == 1
        extended = client.get_allocation(lease.name).expire_time
        assert extended is not None
        assert lease.expire_time is not None
        assert extended >= lease.expire_time
        assert {client.get_allocation(name).holder for name in names} == {"job"}
        assert client.verify("gpu").clean


def test_a_full_fleet_is_no_full_disk(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        client.acquire("gpu", blocks=BLOCKS, holder="all")
        with pytest.raises(NoCapacity):
            client.acquire("gpu", blocks=1, holder="one")
        assert health(server) == "SERVING"
