"""The options that several commands share, each defined once."""

import getpass
import socket
from datetime import timedelta
from typing import Annotated, TypeAlias

import typer

from blockyard.cli.option_values import MalformedValue, read_duration
from blockyard.cli.output import OutputFormat
from blockyard.enums import EventKind, PlacementStrategy

_MAX_HOLDER = 256


def parse_duration(text: str) -> timedelta:
    """The parser of every option that is a duration."""
    try:
        return read_duration(text)
    except MalformedValue as error:
        raise typer.BadParameter(str(error)) from None


def parse_timeout(text: str) -> timedelta:
    """The parser of --timeout: a duration in which something can happen."""
    timeout = parse_duration(text)
    if not timeout:
        raise typer.BadParameter("a timeout of 0 leaves no time for an answer.")
    return timeout


def not_empty(text: str | None) -> str | None:
    """The callback of every option that is a name, a guard or a filter: one that is empty must not come to mean any."""
    if text == "":
        raise typer.BadParameter("it is empty; omit the option instead.")
    return text


def own_holder() -> str:
    """The holder, if no option names one: the user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[:_MAX_HOLDER]


Output: TypeAlias = Annotated[
    OutputFormat,
    typer.Option(
        "--output",
        "-o",
        envvar="BLOCKYARD_OUTPUT",
        case_sensitive=False,
        help="text for people; json: one document for programs.",
    ),
]
Caller: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--caller",
        envvar="BLOCKYARD_CALLER",
        metavar="ID",
        help="The namespace of idempotency tokens.",
        show_default="default",
        callback=not_empty,
    ),
]
FleetArgument: TypeAlias = Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's id, such as gpu.")]
FleetOption: TypeAlias = Annotated[str, typer.Option("--fleet", metavar="FLEET", help="The fleet's id, such as gpu.")]
InstanceArgument: TypeAlias = Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance's id.")]
Labels: TypeAlias = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label; repeat it for more.")
]
Etag: TypeAlias = Annotated[
    str | None,
    typer.Option("--etag", help="Refuse if the etag differs: somebody else changed it first.", callback=not_empty),
]
Strategy: TypeAlias = Annotated[
    PlacementStrategy | None,
    typer.Option(
        "--strategy",
        case_sensitive=False,
        help="How an instance is chosen among those that fit.",
        show_default="the fleet's",
    ),
]
FleetStrategy: TypeAlias = Annotated[
    PlacementStrategy | None,
    typer.Option(
        "--strategy",
        case_sensitive=False,
        help="How an instance is chosen for an acquire that names no strategy.",
        show_default=False,
    ),
]
Ttl: TypeAlias = Annotated[
    timedelta | None,
    typer.Option("--ttl", metavar="DURATION", parser=parse_duration, help="The lease, such as 30s, 10m, 1h30m."),
]
Holder: TypeAlias = Annotated[
    str | None,
    typer.Option("--holder", envvar="BLOCKYARD_HOLDER", help="Who will have the blocks.", show_default="user@machine"),
]
GuardHolder: TypeAlias = Annotated[
    str | None, typer.Option("--holder", help="A guard: refuse if the holder differs.", callback=not_empty)
]
GuardFence: TypeAlias = Annotated[
    int | None,
    typer.Option("--fencing-token", min=1, help="A guard: refuse if the allocation's fencing token differs."),
]
Require: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="RESOURCE=AMOUNT",
        help="Instead of --blocks: as many blocks as cover this amount of an instance's resources, such as gpu=2.",
    ),
]
Match: TypeAlias = Annotated[
    list[str] | None, typer.Option("--match", metavar="KEY=VALUE", help="Only instances with this label.")
]
Where: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="SELECTOR",
        help="Only instances whose labels match, as in Kubernetes: 'gpu in (a100,h100), zone!=b, !spot'.",
    ),
]
On: TypeAlias = Annotated[
    list[str] | None, typer.Option("--on", metavar="INSTANCE", help="Only this instance; repeat it for more.")
]
Annotate: TypeAlias = Annotated[
    list[str] | None, typer.Option("--annotate", metavar="KEY=VALUE", help="Kept with the allocation.")
]
Exclusive: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--exclusive",
        help="All blocks of a wholly idle instance; with --blocks, of one with at least that many. Nobody else gets a"
        " block there while the allocation has one, not even a block that is added later.",
    ),
]
OfKind: TypeAlias = Annotated[
    list[EventKind] | None,
    typer.Option(
        "--kind",
        case_sensitive=False,
        metavar="KIND",
        help="Only this kind, such as granted; repeat it for more. The kinds are those of the column EVENT.",
    ),
]
OfHolder: TypeAlias = Annotated[
    str | None, typer.Option("--holder", help="Only events of this holder's allocations.", callback=not_empty)
]
OfInstance: TypeAlias = Annotated[
    str | None, typer.Option("--instance", help="Only events of this instance.", callback=not_empty)
]
Blocks: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--blocks",
        "-b",
        min=1,
        max=4096,
        metavar="N",
        help="How many blocks on each instance.",
        show_default="1, without --require and --exclusive",
    ),
]
