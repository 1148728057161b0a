"""The admin socket: who may open it, who is taken for whom there, and one server at a time."""

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from blockyard import AsyncClient
from blockyard.v1 import ledger_pb2
from blockyard_server.app import StartRefused
from tests.harness.process import ServerProcess, StartFailed
from tests.rpc.wire import Blockyard
from tests.tls.servers import ByName, refused_status, serving, who_am_i


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_there(path: Path) -> bool:
    return path.exists()


def inode(path: Path) -> int:
    return path.lstat().st_ino


async def test_only_its_owner_may_open_it_and_is_root_there(tmp_path: Path, path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(tmp_path, authenticator=ByName(), admin_socket=path) as running:
            port, admin = running.addresses
            modes = (mode(path), mode(path.with_name("admin.sock.lock")))
            async with grpc.aio.insecure_channel(port) as channel:
                at_the_port = await refused_status(who_am_i(channel))
            async with grpc.aio.insecure_channel(admin) as channel:
                at_the_socket = await who_am_i(channel)
                blockyard = Blockyard(channel)
                await blockyard.make_fleet("gpu", "node-1")
                events = await blockyard.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent="fleets/gpu"))
    finally:
        os.umask(before)

    assert admin == f"unix:{path}"
    assert modes == (0o600, 0o600)
    assert at_the_port is grpc.StatusCode.UNAUTHENTICATED
    assert at_the_socket == ("root", "@socket", "socket")
    assert {(event.actor, event.via) for event in events.events} == {("@socket/root", "socket")}
    assert not is_there(path), "the server removes it at its end"


async def test_the_mask_of_the_process_is_as_before(tmp_path: Path, path: Path) -> None:
    before = os.umask(0o027)
    try:
        async with serving(tmp_path, admin_socket=path):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


async def test_a_socket_alone_is_enough_and_a_path_may_have_any_characters(tmp_path: Path) -> None:
    folder = tmp_path / "50 % ä#?"
    folder.mkdir()
    async with serving(tmp_path, listen="", admin_socket=folder / "a%20b.sock") as running:
        assert mode(folder / "a%20b.sock") == 0o600
        assert running.addresses == (f"unix:{folder}/a%20b.sock",)


async def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path, path: Path) -> None:
    with (
        ServerProcess(tmp_path / "first", admin_socket=path) as first,
        ServerProcess(tmp_path / "second", admin_socket=path) as second,
    ):
        await asyncio.to_thread(first.start)
        with pytest.raises(StartFailed, match="another server has it; stop that one, or choose another"):
            await asyncio.to_thread(second.start)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await who_am_i(channel) == ("root", "@socket", "socket")
        assert first.terminate() == 0
        assert not is_there(path)
        await asyncio.to_thread(second.start)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await who_am_i(channel) == ("root", "@socket", "socket")


async def test_after_a_kill_the_next_server_takes_the_socket_that_was_left(tmp_path: Path, path: Path) -> None:
    with ServerProcess(tmp_path, admin_socket=path) as server:
        await asyncio.to_thread(server.start)
        server.kill()
        assert is_there(path), "nobody has removed it"
        await asyncio.to_thread(server.start)
        async with AsyncClient(f"unix:{path}") as client:
            await client.create_fleet("gpu")
        assert mode(path) == 0o600


def somebody_listens(path: Path) -> socket.socket:
    there = socket.socket(socket.AF_UNIX)
    there.bind(str(path))
    there.listen()
    return there


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (lambda path: path.write_text("data"), "something else is there; remove it, or choose another"),
        (lambda path: path.mkdir(), "something else is there"),
        (lambda path: path.symlink_to(path.with_name("away")), "something else is there"),
        (somebody_listens, "another program listens there; stop it, or choose another"),
    ],
    ids=["a file", "a folder", "a link", "a program"],
)
async def test_what_else_is_at_the_path_is_left_alone(
    put: Callable[[Path], object], why: str, tmp_path: Path, path: Path
) -> None:
    there = put(path)
    before = inode(path)

    with pytest.raises(StartRefused, match=f"^cannot make the admin socket {path}: {why}"):
        async with serving(tmp_path, admin_socket=path):
            pass

    assert inode(path) == before
    if isinstance(there, socket.socket):
        there.close()


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"its folder is not there; make it, or choose another"):
        async with serving(tmp_path, admin_socket=tmp_path / "none" / "admin.sock"):
            pass


async def test_a_start_that_fails_after_the_socket_was_made_leaves_it_to_the_next(tmp_path: Path, path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartRefused, match=r"ops_listen .* cannot be served"):
            async with serving(tmp_path, admin_socket=path, ops_listen=metrics):
                pass
    async with serving(tmp_path, admin_socket=path) as running:
        assert running.addresses[-1] == f"unix:{path}"
