"""A client process forks while it has a lease, and the child ends: nothing of the parent's may be released."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, Final

from blockyard import AllocationState, AsyncClient
from tests.chaos.disturbances import Disturbance, Violation
from tests.chaos.load import CALM_TIMEOUT_S, LEASE_FLEET, MANY_BLOCKS
from tests.chaos.stage import Stage

ROOT: Final = Path(__file__).parents[2]
BOUND_S: Final = 60.0
"""A client that forks says what it holds, and ends, within this."""


async def fork_in_a_lease(stage: Stage, dice: Random) -> None:
    """The child leaves the lease's block as a program that ends does. The parent's blocks stay held until it leaves."""
    address = dice.choice(stage.servers).address
    client = ForkingClient(address)
    try:
        async with asyncio.timeout(BOUND_S):
            allocation = (await asyncio.to_thread(client.hear))["allocation"]
            await _compare(address, allocation, AllocationState.HELD, "after the child of a fork had ended")
            checked = await asyncio.to_thread(client.go_on)
            if not checked["held"]:
                raise Violation(f"a parent's lease says that it is lost after a fork: {checked['why']}")
            await asyncio.to_thread(client.wait)
        await _compare(address, allocation, AllocationState.RELEASED, "after the parent had left its lease")
    except TimeoutError:
        raise Violation(f"a client that forked in its lease did not go on within {BOUND_S:.0f} s") from None
    finally:
        client.kill()


class ForkingClient:
    """`forking_client.py`, as a process of its own."""

    def __init__(self, address: str) -> None:
        # As a user's program has it: gRPC's own handlers of a fork are on.
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
        command = [sys.executable, "-m", "tests.chaos.forking_client", address, LEASE_FLEET, MANY_BLOCKS]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def hear(self) -> dict[str, Any]:
        """What it says next."""
        told: dict[str, Any] = json.loads(self._stdout.readline())
        return told

    def go_on(self) -> dict[str, Any]:
        """Has it look at its lease, and end; what it says."""
        self._stdin.write("go on\n")
        self._stdin.flush()
        return self.hear()

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait(BOUND_S)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._process.kill()
        self._process.wait(BOUND_S)
        self._stdin.close()
        self._stdout.close()


async def _compare(address: str, allocation: str, expected: AllocationState, when: str) -> None:
    async with AsyncClient(address, timeout_s=CALM_TIMEOUT_S) as client:
        state = (await client.get_allocation(allocation)).state
    if state is not expected:
        raise Violation(f"{allocation} is {state} {when}; it must be {expected}")


FORKS: Final = (Disturbance("fork in a lease", "forks", 1, fork_in_a_lease),)
