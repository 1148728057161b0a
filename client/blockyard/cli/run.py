"""`blockyard run`: holds blocks while a command runs."""

import contextlib
import os
import random
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from queue import SimpleQueue
from typing import Annotated, Any, Final, TypeAlias

import typer

from blockyard.cli.acquire import read_demand
from blockyard.cli.capacity_wait import polite_delays
from blockyard.cli.child import ChildCommand, LeaseGone, Mailbox, Outcome, SignalledBeforeStart, Switchboard, supervise
from blockyard.cli.connection import connect
from blockyard.cli.failures import CommandFailed, EndsWith, ExitCode, Recoded, unanswered_acquire
from blockyard.cli.option_values import read_pairs
from blockyard.cli.options import (
    Address,
    Annotate,
    Blocks,
    Caller,
    Exclusive,
    FleetOption,
    Holder,
    Match,
    On,
    Require,
    Strategy,
    Where,
    own_holder,
    parse_duration,
)
from blockyard.client import Client
from blockyard.errors import BlockyardError, LeaseLost, NoCapacity, OutcomeUnknown
from blockyard.lease import Lease
from blockyard.types import Allocation

DEFAULT_TTL: Final = timedelta(seconds=30)
LONGEST_GRACE_S: Final = 10.0
_GRACE_SHARE: Final = 1 / 4
"""The lease is held for lost at two thirds, so a quarter of it later the blocks are still not anybody else's."""

_Ttl: TypeAlias = Annotated[
    timedelta | None,
    typer.Option(
        "--ttl",
        metavar="DURATION",
        parser=parse_duration,
        help="How long the blocks stay held if this process dies.",
        show_default="30s",
    ),
]
_Wait: TypeAlias = Annotated[
    timedelta | None,
    typer.Option(
        "--wait",
        metavar="DURATION",
        parser=parse_duration,
        help="If there is no capacity now, go on asking for so long.",
        show_default="do not wait",
    ),
]
_Grace: TypeAlias = Annotated[
    timedelta | None,
    typer.Option(
        "--grace",
        metavar="DURATION",
        parser=parse_duration,
        help="If the lease is lost: from SIGTERM to SIGKILL.",
        show_default="a quarter of the lease, at most 10s",
    ),
]


def run(
    *,
    command: Annotated[list[str], typer.Argument(metavar="CMD", help="The command and its arguments, after --.")],
    fleet: FleetOption,
    blocks: Blocks = None,
    exclusive: Exclusive = False,
    require: Require = None,
    match: Match = None,
    where: Where = None,
    on: On = None,
    holder: Holder = None,
    ttl: _Ttl = None,
    strategy: Strategy = None,
    annotate: Annotate = None,
    cuda: Annotated[
        bool, typer.Option("--cuda", help="Also set CUDA_VISIBLE_DEVICES to the numbers of the blocks.")
    ] = False,
    wait: _Wait = None,
    grace: _Grace = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what is held.")] = False,
    caller: Caller = None,
    address: Address = None,
) -> None:
    """Holds blocks of one instance while CMD runs here, renews the lease, and releases when CMD ends.

    CMD gets BLOCKYARD_ALLOCATION, BLOCKYARD_INSTANCE, BLOCKYARD_BLOCKS (such as 0,1) and BLOCKYARD_FENCING_TOKEN.
    Signals are passed on to it. If the lease is lost it gets SIGTERM, then SIGKILL.

    The exit code is CMD's: 128+n if signal n ended it, 127 if there is no such command, 126 if it cannot be executed.
    125: the blocks could not be had, or the lease was lost and CMD ended with 0 nevertheless.
    """
    demand = read_demand(
        blocks=blocks,
        exclusive=exclusive,
        require=require or (),
        match=match or (),
        where=where or (),
        on=on or (),
    )
    wishes: dict[str, Any] = {
        "demands": [demand],
        "holder": own_holder() if holder is None else holder,
        "ttl": DEFAULT_TTL if ttl is None else ttl,
        "strategy": strategy,
        "annotations": read_pairs(annotate or (), option="--annotate"),
    }
    job = _Job(command, cuda=cuda, grace=grace, verbose=verbose)
    try:
        with job.switchboard.listening(), connect(address, caller=caller) as client:
            code = _run_when_possible(job, client, fleet, wishes, wait_s=wait.total_seconds() if wait else 0.0)
    except SignalledBeforeStart as signalled:
        raise EndsWith(signalled.exit_code) from None
    except CannotStart:
        raise
    except OutcomeUnknown as unknown:
        raise Recoded(unanswered_acquire(unknown, fleet, caller), ExitCode.RUN_FAILED) from unknown
    except (BlockyardError, CommandFailed) as error:
        raise Recoded(error, ExitCode.RUN_FAILED) from error
    raise EndsWith(code)


class CannotStart(CommandFailed):
    """The command cannot be executed."""

    def __init__(self, command: str, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        super().__init__(
            f"{command} cannot be started: {error.strerror or error}; the blocks are released.",
            exit_code=ExitCode.NOT_FOUND if missing else ExitCode.NOT_EXECUTABLE,
        )


def command_environment(allocation: Allocation, inherited: Mapping[str, str], *, cuda: bool) -> dict[str, str]:
    """The environment of the command: the inherited one, and what it holds."""
    placement = allocation.placements[0]
    numbers = ",".join(str(block) for block in placement.blocks)
    environment = dict(inherited) | {
        "BLOCKYARD_ALLOCATION": allocation.name,
        "BLOCKYARD_INSTANCE": placement.instance,
        "BLOCKYARD_BLOCKS": numbers,
        "BLOCKYARD_FENCING_TOKEN": str(allocation.fencing_token),
    }
    if cuda:
        environment["CUDA_VISIBLE_DEVICES"] = numbers
    return environment


def _run_when_possible(job: "_Job", client: Client, fleet: str, wishes: Mapping[str, Any], *, wait_s: float) -> int:
    """Runs the job as soon as there are blocks. Raises `NoCapacity` if there are none until the wait is over."""
    give_up_at = time.monotonic() + wait_s
    delays = polite_delays(random.SystemRandom())
    while True:
        try:
            return job.run_under(client.lease(fleet, **wishes))
        except NoCapacity as refusal:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise
            job.tell_once(f"Waiting for capacity: {refusal}")
            time.sleep(min(next(delays), left_s))


class _Job:
    """One command, and what to do around it."""

    def __init__(self, command: list[str], *, cuda: bool, grace: timedelta | None, verbose: bool) -> None:
        self._command = command
        self._cuda = cuda
        self._grace = grace
        self._verbose = verbose
        self._told: set[str] = set()
        self._mailbox: Mailbox = SimpleQueue()
        self.switchboard: Final = Switchboard(self._mailbox)
        """Takes the signals."""

    def run_under(self, lease: Lease) -> int:
        """Enters the lease, runs the command, releases, and returns the exit code.

        Raises:
            CannotStart: The command cannot be executed.
            BlockyardError: The blocks could not be had.
        """
        outcome: Outcome | None = None
        try:
            with lease:
                self.switchboard.connect()
                outcome = self._supervise(lease)
        except BlockyardError as failure:
            if outcome is None:
                raise
            _tell(f"{lease.allocation.name} was not released, and stays held until its lease ends: {failure}")
        return ExitCode.RUN_FAILED if outcome.stopped and outcome.code == 0 else outcome.code

    def tell_once(self, sentence: str) -> None:
        """Says something on stderr, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            _tell(sentence)

    def _supervise(self, lease: Lease) -> Outcome:
        allocation = lease.allocation
        environment = command_environment(allocation, os.environ, cuda=self._cuda)
        if self._verbose:
            numbers = environment["BLOCKYARD_BLOCKS"]
            _tell(f"Holding {allocation.name}: {environment['BLOCKYARD_INSTANCE']}, blocks {numbers}.")
        try:
            child = ChildCommand(self._command, environment, self._mailbox)
        except OSError as error:
            raise CannotStart(self._command[0], error) from error
        lease.on_lost(self._lose)
        return supervise(child, self._mailbox, grace_s=self._grace_s(allocation))

    def _lose(self, error: LeaseLost) -> None:
        _tell(f"The lease is lost, stopping the command: {error}")
        self._mailbox.put(LeaseGone())

    def _grace_s(self, allocation: Allocation) -> float:
        if self._grace is not None:
            return self._grace.total_seconds()
        if allocation.ttl is None:
            return LONGEST_GRACE_S
        return min(allocation.ttl.total_seconds() * _GRACE_SHARE, LONGEST_GRACE_S)


def _tell(sentence: str) -> None:
    # Nobody may listen on stderr any more, and the command goes on nevertheless.
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201  # stderr, beside the command's own output
