"""`blockyard release` and `blockyard renew`: gives blocks back, extends a lease."""

from typing import Annotated

import typer

from blockyard.cli.connection import connect
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.option_values import read_placements
from blockyard.cli.options import Caller, GuardFence, GuardHolder, Output, Ttl, not_empty
from blockyard.cli.output import OutputFormat, print_document, print_line, write_duration, write_placements, write_time
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.enums import AllocationState, ReleaseOutcome
from blockyard.types import Placement, ReleaseResult, Renewal

AllocationArgument = Annotated[
    str, typer.Argument(metavar="ALLOCATION", help="Its name, such as fleets/gpu/allocations/17 or gpu/17.")
]


@calls_server
def release(
    *,
    allocation: Annotated[
        str | None,
        typer.Argument(metavar="ALLOCATION", help="Its name, such as fleets/gpu/allocations/17 or gpu/17."),
    ] = None,
    fleet: Annotated[
        str | None, typer.Option("--fleet", metavar="FLEET", help="With --token: the fleet.", callback=not_empty)
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help="Instead of a name: the token of the acquire, whether it got an answer or not.",
            callback=not_empty,
        ),
    ] = None,
    block: Annotated[
        list[str] | None,
        typer.Option("--block", metavar="INSTANCE:BLOCKS", help="Only these, such as node-1:0,1 or node-1:4-7."),
    ] = None,
    holder: GuardHolder = None,
    fencing_token: GuardFence = None,
    caller: Caller = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Releases an allocation, or some of its blocks. You can repeat it: it then changes nothing.

    With --fleet and --token it also cancels an acquire whose answer never came.
    """
    placements = [Placement(instance, blocks) for instance, blocks in read_placements(block or ()).items()]
    by_name = allocation is not None and token is None and fleet is None
    by_token = allocation is None and token is not None and fleet is not None and not placements
    if not by_name and not by_token:
        raise CommandFailed(
            "Say what to release: an ALLOCATION (with --block for a part of it), or --fleet and --token.",
            next_step="`blockyard release --help` shows the usage.",
            exit_code=ExitCode.USAGE,
        )
    with connect(server, caller=caller) as client:
        if allocation is not None:
            result = client.release(
                full_name(allocation), placements=placements or None, holder=holder, fencing_token=fencing_token
            )
        else:
            result = client.release_by_token(fleet or "", token or "", holder=holder, fencing_token=fencing_token)
    if output is OutputFormat.JSON:
        print_document(result)
    else:
        print_line(_describe_release(result))


@calls_server
def renew(
    *,
    allocation: AllocationArgument,
    ttl: Ttl = None,
    holder: GuardHolder = None,
    fencing_token: GuardFence = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Extends a lease so that it ends --ttl from now. Never shortens it, never revives one that has ended.

    Without --ttl: the allocation's own.
    """
    with connect(server) as client:
        renewal = client.renew(full_name(allocation), ttl=ttl, holder=holder, fencing_token=fencing_token)
    if output is OutputFormat.JSON:
        print_document(renewal)
    else:
        print_line(_describe_renewal(renewal))


def full_name(allocation: str) -> str:
    """`fleets/gpu/allocations/17` for that or for `gpu/17`.

    Raises:
        CommandFailed: It is neither.
    """
    match allocation.split("/"):
        case ["fleets", fleet, "allocations", number] | [fleet, number] if fleet and number:
            return f"fleets/{fleet}/allocations/{number}"
        case _:
            raise CommandFailed(
                f"{allocation!r} is not the name of an allocation; write fleets/gpu/allocations/17 or gpu/17.",
                exit_code=ExitCode.USAGE,
            )


def _describe_release(result: ReleaseResult) -> str:
    name = result.allocation.name if result.allocation else "The allocation"
    match result.outcome:
        case ReleaseOutcome.CANCELLED_BEFORE_GRANT:
            return "Nothing was granted to this token; an acquire that arrives late with it is refused."
        case ReleaseOutcome.ALREADY_RELEASED:
            return f"{name} had been released before; nothing changed."
        case ReleaseOutcome.ALREADY_EXPIRED:
            return f"{name} had expired before; nothing changed."
        case _ if result.allocation and result.allocation.state is AllocationState.HELD:
            return f"Released a part of {name}; still held: {write_placements(result.allocation.placements)}."
        case _:
            return f"Released {name}."


def _describe_renewal(renewal: Renewal) -> str:
    allocation = renewal.allocation
    if allocation.expire_time is None:
        return f"{allocation.name} has no lease: it is held until released."
    left = write_duration(allocation.expire_time - renewal.server_time)
    return f"{allocation.name} is held until {write_time(allocation.expire_time)}, {left} from now, unless renewed."
