"""What `blockyard run` and its guard say to each other, over a pipe that only the two have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from blockyard.cli.command_times import CommandTimes


@dataclass(frozen=True, slots=True)
class Start:
    """Start the command; once."""

    command: Sequence[str]
    environment: Mapping[str, str]
    terminal: int | None
    """The terminal, if the command should be in its foreground."""
    times: CommandTimes


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease was renewed."""

    times: CommandTimes


@dataclass(frozen=True, slots=True)
class Stop:
    """The lease is lost: SIGTERM now, SIGKILL after the grace."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this signal to the command's group."""

    number: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop every process of the command until `Resume`, and answer `AllPaused`."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the processes of the command go on, if its time is not over."""


@dataclass(frozen=True, slots=True)
class Leave:
    """There is no more to come: end what is left of the command, and yourself."""


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs, in this process group and perhaps in a cgroup of its own."""

    group: int
    cgroup: str | None


@dataclass(frozen=True, slots=True)
class CannotExecute:
    """There is no command, for this reason."""

    error: OSError


@dataclass(frozen=True, slots=True)
class TooLate:
    """The command was not started: the lease was over already."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The command's first process was stopped by somebody, by Ctrl-Z say; it is not over."""


@dataclass(frozen=True, slots=True)
class AllPaused:
    """The answer to `Pause`."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The guard has begun to stop the command, since the lease was not renewed in time."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The command's first process is over, with this exit code as a shell has it."""

    code: int


@dataclass(frozen=True, slots=True)
class Unkillable:
    """`count` processes got SIGKILL and are still there."""

    count: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of the command is left, and the guard ends."""


Order: TypeAlias = Start | Renewed | Stop | Forward | Pause | Resume | Leave
Report: TypeAlias = Started | CannotExecute | TooLate | Paused | AllPaused | Stopping | Ended | Unkillable | Gone
