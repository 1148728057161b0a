"""What a failure looks like to people and to programs: a sentence, what to do next, and an exit code. Pure."""

import errno
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from blockyard.cli.option_values import MalformedValue
from blockyard.cli.replay_log import MalformedLog
from blockyard.errors import (
    BlockyardError,
    CallFailed,
    DeadlineExceeded,
    HistoryWentBack,
    InvalidRequest,
    LeaseLost,
    NoCapacity,
    OutcomeUnknown,
    Unavailable,
    UnexpectedAnswer,
)
from blockyard.reasons import Reason


@runtime_checkable
class UsageFailure(Protocol):
    """What typer's exceptions share: their root is a class of click or of typer itself, by the release of typer."""

    def format_message(self) -> str:
        """What is wrong, for people."""


class ExitCode(IntEnum):
    """What the process tells its parent. Some commands, such as `verify`, say in their help what differs."""

    DONE = 0
    """The command did what it says."""
    REFUSED = 1
    """The service refused. `verify`, `repair` and `replay`: the records disagree. `serve`: it does not start."""
    USAGE = 2
    """The command, an option or a file is not right; nothing was changed. `verify`, `repair`: could not."""
    NO_ANSWER = 3
    """The service cannot be reached, takes no work now, or did not answer: a change may have happened."""
    NO_CAPACITY = 4
    """It fits, but not now. Try again later."""
    RUN_REFUSED = 65
    """`run`: the service refused what was asked for; it would be refused again. `EX_DATAERR` of sysexits(3)."""
    RUN_NO_ANSWER = 69
    """`run`: the service cannot be reached, takes no work now, or did not answer. `EX_UNAVAILABLE`."""
    FAULT = 70
    """A fault of this program."""
    RUN_NO_CAPACITY = 75
    """`run`: it fits, but not now. `EX_TEMPFAIL`."""
    RUN_FAILED = 125
    """`run` failed in another way, or the lease was lost although the command ended with 0."""
    NOT_EXECUTABLE = 126
    """`run`: the command is there, but cannot be executed."""
    NOT_FOUND = 127
    """`run`: there is no such command."""
    INTERRUPTED = 130
    """Ctrl-C."""
    OUTPUT_CLOSED = 141
    """The output cannot be written, or nobody reads it any more."""


_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class CommandFailed(Exception):
    """A command cannot go on for a reason of its own."""

    def __init__(self, message: str, *, next_step: str = "", exit_code: ExitCode = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.next_step: Final = next_step
        """What to do, as a sentence; empty if the message says it."""
        self.exit_code: Final = exit_code
        """What the process ends with."""


class Recoded(Exception):
    """A failure whose exit code means something else in this command; its words stay the same."""

    def __init__(self, error: Exception, exit_code: ExitCode) -> None:
        super().__init__(str(error))
        self.error: Final = error
        """What went wrong."""
        self.exit_code: Final = exit_code
        """What the process ends with."""


class EndsWith(Exception):
    """Ends the process with the exit code of a command that it ran, and without a word."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code: Final = code
        """The command's."""


class OutputClosed(Exception):
    """Nobody reads the output any more: end quietly."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A failure in words."""

    message: str
    """What went wrong, as a sentence."""
    next_step: str
    """What to do, as a sentence; may be empty."""
    exit_code: ExitCode
    """What the process ends with."""
    reason: str | None = None
    """The reason out of `blockyard.reasons`, if the service refused."""
    status: str | None = None
    """The gRPC status, if a call failed."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The parts of the service's message that vary."""


NEXT_STEPS: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.INVALID_REQUEST: "Correct the named fields, and try again; --help shows the forms.",
        Reason.UNSATISFIABLE: "`blockyard instance list FLEET` shows what there is.",
        Reason.NO_CAPACITY: "`blockyard describe FLEET` shows who holds what; `blockyard run --wait 10m` waits.",
        Reason.TOKEN_MISMATCH: "Use a new token for a new request, or repeat the old request exactly.",
        Reason.TOKEN_CANCELLED: "Use a new token: this one was released before it was granted.",
        Reason.ALLOCATION_ENDED: "Acquire again with a new token.",
        Reason.LEASE_EXPIRED: "Stop working with the blocks, and acquire again with a new token.",
        Reason.STALE_FENCING_TOKEN: "`blockyard allocation NAME` shows the allocation as it is now.",
        Reason.FLEET_NOT_FOUND: "`blockyard fleet list` shows the fleets; `fleet create` makes one.",
        Reason.INSTANCE_NOT_FOUND: "`blockyard instance list FLEET` shows the instances.",
        Reason.ALLOCATION_NOT_FOUND: "`blockyard allocations FLEET` shows them; ended ones go after a time.",
        Reason.FLEET_EXISTS: "Change it with `blockyard fleet update`, or choose another name.",
        Reason.INSTANCE_EXISTS: "Change it with `blockyard instance update`, or choose another name.",
        Reason.INSTANCE_IN_USE: "Cordon the instance, and wait until its allocations are released; "
        "`blockyard allocations FLEET --instance INSTANCE --state HELD` shows them.",
        Reason.FLEET_IN_USE: "Release what is held (`blockyard allocations FLEET --state HELD`); "
        "--force deletes the instances of an idle fleet too.",
        Reason.ETAG_MISMATCH: "Read it again, and decide again.",
        Reason.NOT_HOLDER: "`blockyard allocation NAME` shows who holds it.",
        Reason.BLOCK_NOT_GRANTED: "`blockyard allocation NAME` shows its blocks.",
        Reason.LIMIT_EXCEEDED: "Ask for less at a time, or delete what is not needed any more.",
        Reason.OVERLOADED: "Try again in a moment.",
        Reason.SHUTTING_DOWN: "Try again once the server is up again.",
        Reason.STORE_UNAVAILABLE: "Try again; if it goes on, look at the server's log, its database and its disk.",
        Reason.INVARIANT_VIOLATED: "Run `blockyard verify FLEET`, copy the data as it is: it is the evidence; then "
        "`blockyard repair FLEET`.",
        Reason.INTERNAL_ERROR: "Please report it, with what the server's log says.",
        Reason.COMPACTED: "`blockyard describe FLEET` shows the fleet as it is; go on from its revision.",
        Reason.WATCHER_TOO_SLOW: "Watch again from the revision after the last one that was shown.",
        Reason.FLEET_FORMAT_TOO_NEW: "Ask a server of a newer release, or upgrade this one.",
        Reason.FLEET_FORMAT_TOO_OLD: "Upgrade every server of this database; the format then rises by itself.",
        Reason.UNAUTHENTICATED: "Check the credentials: `blockyard context show` says which are used, and "
        "--token-file, BLOCKYARD_TOKEN or --cert with --key give others.",
        Reason.CREDENTIALS_EXPIRED: "Run it again with new credentials.",
        Reason.NOT_PERMITTED: "`blockyard auth whoami` shows your roles; who runs the server may give you another one.",
        Reason.NOT_OWNER: "Only its tenant renews and releases it; an operator may release it.",
        Reason.RATE_LIMITED: "Wait, and ask for less at once; a batch costs less than single calls.",
        Reason.STORE_DAMAGED: "Stop the server; move its data file, the -wal and the -shm away, and keep them; "
        "put the last good backup in place; start.",
    }
)
"""What to do about each reason that the service gives."""

WITHOUT_REASON: Final[Mapping[type[Exception], str]] = MappingProxyType(
    {
        DeadlineExceeded: "Try again; if it is `verify` or `repair`, with a larger --timeout. "
        "Whether a `repair --apply` was made is not known: asking for it again is harmless.",
        Unavailable: "The servers cannot be reached, or do not serve now: they are stopping, or their database is "
        "away. Look at their logs; --address or BLOCKYARD_ADDRESS says where they are, --tls and --ca whether they "
        "speak TLS.",
        CallFailed: "That is no answer of Blockyard's; say where the service is with --address or BLOCKYARD_ADDRESS.",
        LeaseLost: "Stop working with the blocks.",
        HistoryWentBack: "Stop working with the blocks, and tell the operator.",
        UnexpectedAnswer: "Install a newer `blockyard`.",
    }
)
"""What to do about a failure that has no reason; the nearest class in its ancestry counts."""

_RUN_AGAIN: Final = "Give the same command again: what it has done already is not done twice."
_LOOK_FIRST: Final = "Look whether it was done (`blockyard fleet get`, `blockyard instance get`) before you repeat it."
_REPLAY_AGAIN: Final = "Run it again, in a fresh fleet."
"""Batches are the calls of `replay` alone."""


def explain(error: Exception) -> Explanation:
    """The words for a failure, whatever it is."""
    if isinstance(error, Recoded):
        return replace(explain(error.error), exit_code=error.exit_code)
    if isinstance(error, CallFailed):
        return _explain_call(error)
    message, next_step, exit_code = str(error), "", ExitCode.USAGE
    match error:
        case CommandFailed():
            next_step, exit_code = error.next_step, error.exit_code
        case MalformedValue() | MalformedLog():
            pass
        case UsageFailure():
            message, next_step = error.format_message(), _usage_hint(error)
        case OutcomeUnknown():
            message, next_step = _explain_unknown(error)
            exit_code = ExitCode.NO_ANSWER
        case BlockyardError():
            next_step, exit_code = _without_reason(error), ExitCode.REFUSED
        case OSError():
            message, exit_code = _explain_system(error)
        case _:
            message = f"A fault of this program: {type(error).__name__}: {error}"
            next_step = "Please report it; BLOCKYARD_TRACEBACK=1 shows where it happened."
            exit_code = ExitCode.FAULT
    return Explanation(_sentence(message), next_step, exit_code)


def _explain_system(error: OSError) -> tuple[str, ExitCode]:
    if error.filename is None and error.errno in _DISK_FULL:
        # The command may well have done its work: only its words are lost.
        return f"The output cannot be written: {error.strerror}", ExitCode.OUTPUT_CLOSED
    return f"{error.filename or 'A file'}: {error.strerror or error}", ExitCode.USAGE


def _explain_call(error: CallFailed) -> Explanation:
    message = str(error)
    if "incident" in error.metadata:
        message = f"{message} (incident {error.metadata['incident']})"
    if isinstance(error, InvalidRequest) and error.field_violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in error.field_violations)
    exit_code = ExitCode.REFUSED
    if isinstance(error, NoCapacity):
        exit_code = ExitCode.NO_CAPACITY
    elif isinstance(error, Unavailable | DeadlineExceeded):
        exit_code = ExitCode.NO_ANSWER
    return Explanation(
        message=_sentence(message),
        next_step=_next_step(error),
        exit_code=exit_code,
        reason=error.reason,
        status=error.status,
        metadata=error.metadata,
    )


def _next_step(error: CallFailed) -> str:
    if error.reason is not None:
        return NEXT_STEPS[Reason(error.reason)] if error.reason in NEXT_STEPS else ""
    return _without_reason(error)


def _without_reason(error: BlockyardError) -> str:
    return next((WITHOUT_REASON[kind] for kind in type(error).__mro__ if kind in WITHOUT_REASON), "")


def unanswered_acquire(error: OutcomeUnknown, fleet: str, caller: str | None) -> CommandFailed:
    """The failure of a command whose acquire got no answer: with the command that cancels it."""
    scope = ["--caller", caller] if caller else []
    token = error.token or ""
    release = shlex.join(["blockyard", "release", "--fleet", fleet, "--token", token, *scope])
    return CommandFailed(
        _unknown_outcome(error),
        next_step=f"`{release}` cancels it; an acquire with the same --token asks for it again.",
        exit_code=ExitCode.NO_ANSWER,
    )


def _explain_unknown(error: OutcomeUnknown) -> tuple[str, str]:
    if error.token is not None:
        next_step = _sentence(error.advice)
    elif error.call == "Batch":
        next_step = _REPLAY_AGAIN
    else:
        next_step = _RUN_AGAIN if error.repeatable else _LOOK_FIRST
    return _unknown_outcome(error), next_step


def _unknown_outcome(error: OutcomeUnknown) -> str:
    """What happened, without the advice for programs that ends the error's own message."""
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"the outcome of {error.call or 'the change'} is unknown{cause}"


def _usage_hint(error: UsageFailure) -> str:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "blockyard")
    return f"`{path} --help` shows the usage."


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
