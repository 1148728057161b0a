"""`blockyard fleet …`: the fleets themselves."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

from blockyard.cli.connection import connect
from blockyard.cli.help_page import show_help
from blockyard.cli.option_values import MalformedValue, read_duration, read_pairs
from blockyard.cli.options import Etag, FleetArgument, FleetStrategy, Labels, Output
from blockyard.cli.output import (
    OutputFormat,
    print_document,
    print_line,
    print_table,
    write_duration,
    write_pairs,
    write_time,
)
from blockyard.cli.progress import counting
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.client import Client
from blockyard.errors import LimitExceeded
from blockyard.types import Fleet

DELETED_AT_ONCE: Final = 16
"""Instances that are being deleted at a time: their requests share transactions."""

fleet_app = typer.Typer(callback=show_help, invoke_without_command=True, help="Create, show, change and delete fleets.")

_NONE = "none"
_DefaultTtl = Annotated[
    str | None,
    typer.Option(
        "--default-ttl",
        metavar="DURATION",
        help="The lease of an acquire that names none, such as 30s. 'none': the max ttl; if that is 'none', too, "
        "blocks are held until released.",
    ),
]
_MaxTtl = Annotated[
    str | None,
    typer.Option("--max-ttl", metavar="DURATION", help="The longest lease that is granted; 'none': 366 days."),
]


@fleet_app.command("create")
@calls_server
def create_fleet(
    fleet: FleetArgument,
    label: Labels = None,
    strategy: FleetStrategy = None,
    default_ttl: _DefaultTtl = None,
    max_ttl: _MaxTtl = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Creates a fleet. If it exists with the same fields, nothing changes. Without --strategy: best_fit."""
    labels = read_pairs(label or (), option="--label")
    with connect(server) as client:
        made = client.create_fleet(
            fleet,
            labels=labels,
            default_placement_strategy=strategy,
            default_ttl=_read_ttl(default_ttl),
            max_ttl=_read_ttl(max_ttl),
        )
    _print_fleet(made, output)


@fleet_app.command("get")
@calls_server
def get_fleet(fleet: FleetArgument, server: ServerOptions = NO_OPTIONS, output: Output = OutputFormat.TEXT) -> None:
    """Shows a fleet's own fields. `blockyard describe` shows its blocks."""
    with connect(server) as client:
        found = client.get_fleet(fleet)
    _print_fleet(found, output)


@fleet_app.command("list")
@calls_server
def list_fleets(server: ServerOptions = NO_OPTIONS, output: Output = OutputFormat.TEXT) -> None:
    """Lists all fleets by name."""
    with connect(server) as client:
        fleets = list(client.list_fleets())
    if output is OutputFormat.JSON:
        print_document({"fleets": fleets})
        return
    rows = (
        (
            fleet.id,
            str(fleet.revision),
            fleet.default_placement_strategy,
            write_duration(fleet.default_ttl),
            write_duration(fleet.max_ttl),
            write_pairs(fleet.labels),
        )
        for fleet in fleets
    )
    columns = ("FLEET", "REVISION", "STRATEGY", "DEFAULT TTL", "MAX TTL", "LABELS")
    print_table(columns, rows, if_empty="There are no fleets yet; `blockyard fleet create FLEET` makes one.")


@fleet_app.command("update")
@calls_server
def update_fleet(
    fleet: FleetArgument,
    *,
    label: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")] = False,
    strategy: FleetStrategy = None,
    default_ttl: _DefaultTtl = None,
    max_ttl: _MaxTtl = None,
    etag: Etag = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Changes the fields that are named, and leaves the others. --label replaces all labels."""
    changes: dict[str, Any] = {}
    if label or no_labels:
        changes["labels"] = {} if no_labels else read_pairs(label or (), option="--label")
    if strategy is not None:
        changes["default_placement_strategy"] = strategy
    if default_ttl is not None:
        changes["default_ttl"] = _read_ttl(default_ttl)
    if max_ttl is not None:
        changes["max_ttl"] = _read_ttl(max_ttl)
    if not changes:
        raise MalformedValue("Nothing to change: name at least one field, such as --default-ttl 30s.")
    with connect(server) as client:
        changed = client.update_fleet(fleet, etag=etag, **changes)
    _print_fleet(changed, output)


@fleet_app.command("delete")
@calls_server
def delete_fleet(
    fleet: FleetArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Delete its instances, too. A fleet with held blocks is never deleted.")
    ] = False,
    etag: Etag = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Deletes a fleet. Its journal stays, and a fleet of the same name goes on from its revision.

    If it has more instances than the server deletes at once, they are deleted one by one first.
    """
    with connect(server) as client:
        try:
            client.delete_fleet(fleet, etag=etag, force=force)
        except LimitExceeded:
            _delete_instances(client, fleet)
            client.delete_fleet(fleet, etag=etag, force=force)
    if output is OutputFormat.JSON:
        print_document({"deleted": fleet})
    else:
        print_line(f"Deleted {fleet}.")


def _delete_instances(client: Client, fleet: str) -> None:
    """All of them, several at a time. Ends at the first that is in use."""
    names = [instance.name for instance in client.list_instances(fleet)]
    with counting("Deleting instances", len(names)) as done, ThreadPoolExecutor(DELETED_AT_ONCE) as workers:
        for _ in workers.map(lambda name: client.delete_instance(fleet, name), names):
            done(1)


def _print_fleet(fleet: Fleet, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_document(fleet)
        return
    print_line(f"{fleet.name} at revision {fleet.revision}")
    print_line(f"  strategy     {fleet.default_placement_strategy}")
    print_line(f"  default ttl  {_write_default_ttl(fleet)}")
    print_line(f"  max ttl      {write_duration(fleet.max_ttl, if_none='366d')}")
    print_line(f"  labels       {write_pairs(fleet.labels)}")
    print_line(f"  created      {write_time(fleet.create_time)}")
    print_line(f"  etag         {fleet.etag}")
    if fleet.halted:
        print_line(f"  HALTED       its writes are stopped: blockyard verify {fleet.id}; blockyard repair {fleet.id}")


def _write_default_ttl(fleet: Fleet) -> str:
    """What an acquire that asks for no lease gets."""
    if fleet.default_ttl is not None:
        return write_duration(fleet.default_ttl)
    return "none: held until released" if fleet.max_ttl is None else "none: the max ttl"


def _read_ttl(text: str | None) -> timedelta | None:
    return None if text is None or text.lower() == _NONE else read_duration(text)
