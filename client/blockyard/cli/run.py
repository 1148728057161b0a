"""`blockyard run`: holds blocks while a command runs."""

import contextlib
import os
import random
import time
from collections.abc import Mapping
from datetime import timedelta
from queue import SimpleQueue
from typing import Annotated, Any, Final, TypeAlias

import typer

from blockyard._call import Operation
from blockyard._clock import lease_now
from blockyard._leasing import acquire_for_lease
from blockyard.cli.acquire import read_demand
from blockyard.cli.capacity_wait import polite_delays
from blockyard.cli.child import ChildCommand, LeaseGone, Mailbox, Signalled
from blockyard.cli.command_times import CommandTimes
from blockyard.cli.connection import connect
from blockyard.cli.failures import CommandFailed, EndsWith, ExitCode, Recoded, unanswered_acquire
from blockyard.cli.held_lease import HeldLease
from blockyard.cli.option_values import read_pairs
from blockyard.cli.options import (
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
from blockyard.cli.output import tell, write_duration
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.cli.signal_forwarder import SignalForwarder, SignalledBeforeStart
from blockyard.cli.supervision import Outcome, Supervision
from blockyard.client import Client
from blockyard.errors import (
    BlockyardError,
    CallFailed,
    DeadlineExceeded,
    LeaseLost,
    NoCapacity,
    OutcomeUnknown,
    ServerFault,
    Unavailable,
)
from blockyard.types import Allocation, Grant

DEFAULT_TTL: Final = timedelta(seconds=30)

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
        help="If there is no capacity now, keep asking for this long.",
        show_default="do not wait",
    ),
]
_Grace: TypeAlias = Annotated[
    timedelta | None,
    typer.Option(
        "--grace",
        metavar="DURATION",
        parser=parse_duration,
        help="When the command is stopped: from SIGTERM to SIGKILL. Never more than a quarter of the lease.",
        show_default="a quarter of the lease, at most 10s",
    ),
]


@calls_server
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
    server: ServerOptions = NO_OPTIONS,
) -> None:
    """Holds blocks of one instance while CMD runs here, renews their lease, and releases them when CMD ends.

    CMD gets BLOCKYARD_ALLOCATION, BLOCKYARD_INSTANCE, BLOCKYARD_BLOCKS (such as 0,1) and BLOCKYARD_FENCING_TOKEN.
    run passes signals on to it. If the lease is lost, run ends CMD and everything that CMD has started, with SIGTERM,
    then SIGKILL. It also ends what CMD leaves behind, and releases the blocks when no process is left.

    The exit code is CMD's: 128+n if signal n ended it, 127 if there is no such command, 126 if it cannot be executed.
    Without the blocks: 75 if there is no capacity now, 69 if the service does not answer, 65 if it refuses the request.
    125: another failure of run itself, or the lease was lost and CMD ended with 0 nevertheless.
    """
    demand = read_demand(
        blocks=blocks,
        exclusive=exclusive,
        require=require or (),
        match=match or (),
        where=where or (),
        on=on or (),
    )
    request: dict[str, Any] = {
        "demands": [demand],
        "holder": own_holder() if holder is None else holder,
        "ttl": DEFAULT_TTL if ttl is None else ttl,
        "strategy": strategy,
        "annotations": read_pairs(annotate or (), option="--annotate"),
    }
    job = _Job(command, cuda=cuda, grace=grace, verbose=verbose)
    try:
        # The guard is forked before the client has threads.
        with job.signals.handling(), job.child, connect(server, caller=caller) as client:
            code = _run_when_possible(job, client, fleet, request, wait_s=wait.total_seconds() if wait else 0.0)
    except SignalledBeforeStart as signalled:
        raise EndsWith(signalled.exit_code) from None
    except CannotStart:
        raise
    except OutcomeUnknown as unknown:
        raise Recoded(unanswered_acquire(unknown, fleet, caller), exit_code_without_blocks(unknown)) from unknown
    except (BlockyardError, CommandFailed) as error:
        raise Recoded(error, exit_code_without_blocks(error)) from error
    raise EndsWith(code)


class CannotStart(CommandFailed):
    """The command cannot be executed."""

    def __init__(self, command: str, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        super().__init__(
            f"{command} cannot be started: {error.strerror or error}; the blocks are released.",
            exit_code=ExitCode.NOT_FOUND if missing else ExitCode.NOT_EXECUTABLE,
        )


def exit_code_without_blocks(error: BlockyardError | CommandFailed) -> ExitCode:
    """What `run` ends with if it could not start the command, told apart as `acquire` does by its own codes."""
    match error:
        case NoCapacity():
            return ExitCode.RUN_NO_CAPACITY
        case Unavailable() | DeadlineExceeded() | OutcomeUnknown() | CommandFailed(exit_code=ExitCode.NO_ANSWER):
            return ExitCode.RUN_NO_ANSWER
        case CommandFailed(exit_code=ExitCode.USAGE):
            return ExitCode.USAGE
        case CallFailed() if error.reason is not None and not isinstance(error, ServerFault):
            return ExitCode.RUN_REFUSED
        case _:
            return ExitCode.RUN_FAILED


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


def _run_when_possible(job: "_Job", client: Client, fleet: str, request: Mapping[str, Any], *, wait_s: float) -> int:
    """Runs the job as soon as there are blocks. Raises `NoCapacity` if there are none until the wait is over."""
    give_up_at = lease_now() + wait_s
    delays = polite_delays(random.SystemRandom())
    while True:
        try:
            return job.run_under(client, acquire_for_lease(fleet, **request))
        except NoCapacity as refusal:
            left_s = give_up_at - lease_now()
            if left_s <= 0:
                raise
            job.tell_once(f"Waiting for capacity: {refusal}")
            time.sleep(min(next(delays), left_s))


class _Job:
    """One command, and what to do around it."""

    def __init__(self, command: list[str], *, cuda: bool, grace: timedelta | None, verbose: bool) -> None:
        self._command = command
        self._cuda = cuda
        self._grace_s = None if grace is None else grace.total_seconds()
        self._verbose = verbose
        self._told: set[str] = set()
        self._mailbox: Mailbox = SimpleQueue()
        self.child: Final = ChildCommand(self._mailbox)
        """The command to be, and its guard."""
        self.signals: Final = SignalForwarder(lambda number: self._mailbox.put(Signalled(number)))
        """Takes the signals."""

    def run_under(self, client: Client, acquire: Operation[Grant]) -> int:
        """Acquires, runs the command, releases once nothing of it is left, and returns the exit code.

        Raises:
            CannotStart: The command cannot be executed.
            BlockyardError: The blocks could not be had.
        """
        outcome: Outcome | None = None
        lease = HeldLease(client, acquire, grace_s=self._grace_s)
        try:
            with lease:
                self.signals.start_forwarding()
                try:
                    outcome = self._supervise(lease)
                finally:
                    self.child.finish()
        except BlockyardError:
            if outcome is None:
                raise
        if lease.release_failure is not None:
            held = "until it is released" if lease.allocation.expire_time is None else "until its lease ends"
            _tell(f"{lease.allocation.name} was not released, and stays held {held}: {lease.release_failure}")
        return ExitCode.RUN_FAILED if outcome.stopped and outcome.code == 0 else outcome.code

    def tell_once(self, sentence: str) -> None:
        """Says something on stderr, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            _tell(sentence)

    def _supervise(self, lease: HeldLease) -> Outcome:
        allocation = lease.allocation
        environment = command_environment(allocation, os.environ, cuda=self._cuda)
        if self._verbose:
            numbers = environment["BLOCKYARD_BLOCKS"]
            _tell(f"Holding {allocation.name}: {environment['BLOCKYARD_INSTANCE']}, blocks {numbers}.")
        lease.check()
        try:
            self.child.start(self._command, environment, lease.command_times())
        except OSError as error:
            raise CannotStart(self._command[0], error) from error
        lease.on_lost(self._lose)
        lease.on_renewed(self._renewed)
        return Supervision(self.child, lease_holds=lambda: _holds(lease), tell=_tell).run(self._mailbox)

    def _lose(self, error: LeaseLost) -> None:
        self._mailbox.put(LeaseGone())  # first: nobody may read what is said
        _tell(f"The lease is lost, stopping the command: {error}")

    def _renewed(self, times: CommandTimes) -> None:
        self.child.renewed(times)
        if self._grace_s is not None and times.grace_s < self._grace_s:
            wanted, got = (write_duration(timedelta(seconds=round(s, 1))) for s in (self._grace_s, times.grace_s))
            self.tell_once(f"The lease is too short for a grace of {wanted}: the command gets {got}.")


def _holds(lease: HeldLease) -> bool:
    """Whether the lease is good now; if it is not, its `on_lost` callbacks were called."""
    try:
        lease.check()
    except LeaseLost:
        return False
    return True


def _tell(sentence: str) -> None:
    # If nobody reads stderr any more, the command still goes on.
    with contextlib.suppress(OSError):
        tell(sentence)
