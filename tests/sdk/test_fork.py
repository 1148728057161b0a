"""After a fork nothing of the parent's is touched: programs that fork, beside a server that tells what it was asked.

Each program is a process of its own: pytest's has gRPC's threads, and must not be forked.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Final
from uuid import uuid4

import pytest

from blockyard import Client
from tests.cli.conftest import serving

BOUND_S: Final = 60
SETUP: Final = """
import asyncio, gc, multiprocessing, os, signal, sys, threading
from blockyard import AsyncClient, Client, WrongProcess, operations

ADDRESS, FLEET = sys.argv[1:]

def say(*words):
    print(*words, flush=True)

def raised(call, *arguments):
    # The name of what a call raises.
    try:
        return f"nothing, but {call(*arguments)}"
    except BaseException as error:
        return type(error).__name__

def gone(pid):
    # Waits for a child; one that hangs is killed, and that is told.
    killer = threading.Timer(20, os.kill, (pid, signal.SIGKILL))
    killer.start()
    _, status = os.waitpid(pid, 0)
    killer.cancel()
    say("child", os.waitstatus_to_exitcode(status))
"""

CHILDREN: Final = {
    "leaves its block": "sys.exit(0)",
    "fails in it": "raise SystemExit(0) from ValueError()",
    "exits at once": "os._exit(0)",
    "closes all": "lease.__exit__(None, None, None); watch.close(); client.close(); sys.exit(0)",
    "collects its garbage": "lease = watch = updates = client = None; gc.collect(); sys.exit(0)",
    "asks and is refused": """
        what = [lease.check, lambda: lease.on_lost(print), lambda: client.get_fleet(FLEET), lambda: next(updates),
                lambda: next(watch), lambda: client.lease(FLEET, blocks=1, holder="c").__enter__(),
                lambda: client.call(operations.release(lease.allocation))]
        if {raised(each) for each in what} == {"WrongProcess"} and lease.lost.is_set() and lease.lost.wait():
            sys.exit(0)
        say([raised(each) for each in what])
        os._exit(1)
    """,
}
EVERY_SUPPORT: Final = pytest.mark.parametrize(
    "support",
    [
        pytest.param(None, id="default"),
        pytest.param("0", id="off", marks=pytest.mark.slow),
        pytest.param("1", id="on", marks=pytest.mark.slow),
    ],
)
"""gRPC's own handlers around a fork."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("data") / "blockyard.db") as found:
        yield found


@pytest.fixture
def fleet(address: str) -> str:
    name = f"fleet-{uuid4().hex}"
    with Client(address) as client:
        client.create_fleet(name)
        client.create_instance(name, "node-1", total_blocks=1)
    return name


def outcome_of(program: str, address: str, fleet: str, support: str | None, folder: Path) -> list[str]:
    """What the program says, line by line."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    if support is not None:
        environment["GRPC_ENABLE_FORK_SUPPORT"] = support
    script = folder / "program.py"
    script.write_text(SETUP + dedent(program))
    with (folder / "err").open("w") as err:
        done = subprocess.run(
            [sys.executable, script, address, fleet],
            env=environment,
            timeout=BOUND_S,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=err,
        )
    assert done.returncode == 0, (folder / "err").read_text()
    return done.stdout.splitlines()


def kinds_of(address: str, fleet: str) -> list[str]:
    with Client(address) as client:
        return [event.kind.value for event in client.list_events(fleet)][2:]


@EVERY_SUPPORT
@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_forked_child_leaves_its_parents_lease_watch_and_client_alone(
    address: str, fleet: str, tmp_path: Path, child: str, support: str | None
) -> None:
    program = f"""
client = Client(ADDRESS, timeout_s=20)
with client.lease(FLEET, blocks=1, holder="parent", ttl=3600) as lease:
    watch = client.watch(FLEET, progress_interval=3600)
    updates = watch.updates()
    next(updates)
    pid = os.fork()
    if pid == 0:
{indent(dedent(child).strip(), " " * 8)}
    gone(pid)
    lease.check()
    with Client(ADDRESS) as other:
        say(raised(lambda: other.acquire(FLEET, blocks=1, holder="other")))
        other.create_instance(FLEET, "node-2", total_blocks=1)
    say(next(updates).events[0].kind)
    say(client.describe(FLEET).totals.busy_blocks)
"""
    said = outcome_of(program, address, fleet, support, tmp_path)

    assert said == ["child 0", "NoCapacity", "INSTANCE_CREATED", "1"]
    assert kinds_of(address, fleet) == ["GRANTED", "INSTANCE_CREATED", "RELEASED"]


@EVERY_SUPPORT
def test_a_forked_child_leaves_an_asyncio_lease_alone(
    address: str, fleet: str, tmp_path: Path, support: str | None
) -> None:
    """What the child says counts without gRPC's handlers alone.

    With them, gRPC 1.85 for asyncio may crash in a child that does nothing at all, in a thread that they start there.
    """
    program = """
    async def main():
        async with AsyncClient(ADDRESS, timeout_s=20) as client:
            async with client.lease(FLEET, blocks=1, holder="parent", ttl=3600) as lease:
                lease.on_lost(lambda lost: say("the child hears of a loss"))
                watch = client.watch(FLEET, progress_interval=3600)
                updates = watch.updates()
                await anext(updates)
                pid = os.fork()
                if pid == 0:
                    say(raised(lease.check), lease.lost.is_set())
                    for step in (lambda: client.get_fleet(FLEET), lambda: anext(watch)):
                        try:
                            await step()
                        except WrongProcess:
                            say("WrongProcess")
                    await watch.close()
                    sys.exit(0)
                gone(pid)
                lease.check()
                await client.create_instance(FLEET, "node-2", total_blocks=1)
                say((await anext(updates)).events[0].kind)
    asyncio.run(main())
    """
    said = outcome_of(program, address, fleet, support, tmp_path)

    assert said[-1] == "INSTANCE_CREATED"
    if support == "0":
        assert said[:-1] == ["WrongProcess True", "WrongProcess", "WrongProcess", "child 0"]
    assert kinds_of(address, fleet) == ["GRANTED", "INSTANCE_CREATED", "RELEASED"]


@pytest.mark.slow
@EVERY_SUPPORT
def test_a_process_of_multiprocessing_does_not_hold_what_its_parent_holds(
    address: str, fleet: str, tmp_path: Path, support: str | None
) -> None:
    program = """
    client = Client(ADDRESS, timeout_s=20)
    with client.lease(FLEET, blocks=1, holder="parent", ttl=3600) as lease:
        def work():
            with client:  # and leaves it
                say(raised(lease.check), raised(client.get_fleet, FLEET))
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join(20)
        say("child", child.exitcode)
        lease.check()
        say(client.get_fleet(FLEET).id == FLEET)
    """
    said = outcome_of(program, address, fleet, support, tmp_path)

    assert said == ["WrongProcess WrongProcess", "child 0", "True"]
    assert kinds_of(address, fleet) == ["GRANTED", "RELEASED"]


@EVERY_SUPPORT
def test_a_fork_in_another_thread_while_the_lease_is_renewed_harms_neither(
    address: str, fleet: str, tmp_path: Path, support: str | None
) -> None:
    program = """
    client = Client(ADDRESS, timeout_s=20)
    with client.lease(FLEET, blocks=1, holder="parent", ttl=3) as lease:
        def fork():
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    os._exit(0 if raised(lease.check) == "WrongProcess" else 1)
                gone(pid)
        forker = threading.Thread(target=fork)
        forker.start()
        granted = lease.allocation.expire_time
        while lease.allocation.expire_time == granted or forker.is_alive():
            lease.check()
    """
    said = outcome_of(program, address, fleet, support, tmp_path)

    assert said == ["child 0"] * 20
    assert set(kinds_of(address, fleet)[1:-1]) == {"RENEWED"}


@pytest.mark.slow
def test_a_child_that_the_renewing_thread_forks_does_not_renew(address: str, fleet: str, tmp_path: Path) -> None:
    """Without gRPC's handlers: the threads that they start in the child would keep it alive after its only one."""
    program = """
    pids = []
    def fork(lost):
        pid = os.fork()
        pids.append(pid)

    client = Client(ADDRESS, timeout_s=20)
    with client.lease(FLEET, blocks=1, holder="parent", ttl=3) as lease:
        lease.on_lost(fork)
        client.release(lease.allocation)
        lease._thread.join()
        gone(pids[0])
    """
    assert outcome_of(program, address, fleet, "0", tmp_path) == ["child 0"]
    assert kinds_of(address, fleet) == ["GRANTED", "RELEASED"]
