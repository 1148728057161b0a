"""`blockyard instance …`: a fleet's machines."""

from typing import Annotated, Any

import typer

from blockyard.cli.connection import connect
from blockyard.cli.help_page import show_help
from blockyard.cli.option_values import MalformedValue, read_amounts, read_pairs
from blockyard.cli.options import Etag, FleetArgument, InstanceArgument, Labels, Output
from blockyard.cli.output import OutputFormat, print_document, print_line, print_table, write_pairs, write_time
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.enums import InstanceState
from blockyard.types import Instance

instance_app = typer.Typer(
    callback=show_help, invoke_without_command=True, help="Register, show, change, cordon and remove instances."
)

_Resources = Annotated[
    list[str] | None,
    typer.Option(
        "--resource", metavar="NAME=AMOUNT", help="What the whole instance has, such as gpu=8; repeat it for more."
    ),
]
_State = Annotated[
    InstanceState | None,
    typer.Option("--state", case_sensitive=False, help="Whether it takes new grants; what is held stays held."),
]


@instance_app.command("create")
@calls_server
def create_instance(
    fleet: FleetArgument,
    instance: InstanceArgument,
    blocks: Annotated[int, typer.Option("--blocks", "-b", min=1, max=4096, help="How many blocks it is divided into.")],
    label: Labels = None,
    resource: _Resources = None,
    state: _State = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Registers an instance. If it exists with the same fields, nothing changes."""
    labels = read_pairs(label or (), option="--label")
    resources = read_amounts(resource or (), option="--resource")
    with connect(server) as client:
        made = client.create_instance(
            fleet, instance, total_blocks=blocks, labels=labels, resources=resources, state=state
        )
    _print_instance(made, output)


@instance_app.command("get")
@calls_server
def get_instance(
    fleet: FleetArgument,
    instance: InstanceArgument,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Shows an instance."""
    with connect(server) as client:
        found = client.get_instance(fleet, instance)
    _print_instance(found, output)


@instance_app.command("list")
@calls_server
def list_instances(
    fleet: FleetArgument, server: ServerOptions = NO_OPTIONS, output: Output = OutputFormat.TEXT
) -> None:
    """Lists a fleet's instances in the order of registration."""
    with connect(server) as client:
        instances = list(client.list_instances(fleet))
    if output is OutputFormat.JSON:
        print_document({"instances": instances})
        return
    rows = (
        (
            instance.id,
            instance.state,
            str(instance.total_blocks),
            str(instance.busy_blocks),
            str(instance.idle_blocks),
            write_pairs(instance.labels),
            write_pairs(instance.resources),
        )
        for instance in instances
    )
    columns = ("INSTANCE", "STATE", "BLOCKS", "BUSY", "IDLE", "LABELS", "RESOURCES")
    print_table(columns, rows, if_empty="The fleet has no instances yet; `blockyard instance create` registers one.")


@instance_app.command("update")
@calls_server
def update_instance(
    fleet: FleetArgument,
    instance: InstanceArgument,
    *,
    blocks: Annotated[
        int | None,
        typer.Option("--blocks", "-b", min=1, max=4096, help="Grow or shrink it; a block that is held cannot go."),
    ] = None,
    label: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")] = False,
    resource: _Resources = None,
    no_resources: Annotated[bool, typer.Option("--no-resources", help="Take all resources away.")] = False,
    state: _State = None,
    etag: Etag = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Changes the fields that are named, and leaves the others. --label and --resource replace all of theirs."""
    changes: dict[str, Any] = {}
    if blocks is not None:
        changes["total_blocks"] = blocks
    if label or no_labels:
        changes["labels"] = {} if no_labels else read_pairs(label or (), option="--label")
    if resource or no_resources:
        changes["resources"] = {} if no_resources else read_amounts(resource or (), option="--resource")
    if state is not None:
        changes["state"] = state
    if not changes:
        raise MalformedValue("Nothing to change: name at least one field, such as --blocks 16.")
    with connect(server) as client:
        changed = client.update_instance(fleet, instance, etag=etag, **changes)
    _print_instance(changed, output)


@instance_app.command("delete")
@calls_server
def delete_instance(
    fleet: FleetArgument,
    instance: InstanceArgument,
    etag: Etag = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Removes an instance. The server refuses this while any of its blocks is held."""
    with connect(server) as client:
        client.delete_instance(fleet, instance, etag=etag)
    if output is OutputFormat.JSON:
        print_document({"deleted": instance})
    else:
        print_line(f"Deleted {instance} of {fleet}.")


@instance_app.command("cordon")
@calls_server
def cordon_instance(
    fleet: FleetArgument,
    instance: InstanceArgument,
    etag: Etag = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Stops new grants on an instance. Blocks that are held stay held."""
    with connect(server) as client:
        changed = client.cordon_instance(fleet, instance, etag=etag)
    _print_instance(changed, output)


@instance_app.command("uncordon")
@calls_server
def uncordon_instance(
    fleet: FleetArgument,
    instance: InstanceArgument,
    etag: Etag = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Allows new grants on an instance again, also on one that was offline."""
    with connect(server) as client:
        changed = client.uncordon_instance(fleet, instance, etag=etag)
    _print_instance(changed, output)


def _print_instance(instance: Instance, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_document(instance)
        return
    print_line(f"{instance.name} is {instance.state}")
    print_line(f"  blocks      {instance.busy_blocks} of {instance.total_blocks} busy, {instance.idle_blocks} idle")
    print_line(f"  labels      {write_pairs(instance.labels)}")
    print_line(f"  resources   {write_pairs(instance.resources)}")
    print_line(f"  order       {instance.order}")
    print_line(f"  registered  {write_time(instance.create_time)}")
    print_line(f"  etag        {instance.etag}")
