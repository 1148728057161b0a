"""`blockyard allocations` and `blockyard allocation`: who was granted what."""

from typing import Annotated

import typer

from blockyard.cli.connection import connect
from blockyard.cli.options import FleetArgument, Output, not_empty
from blockyard.cli.output import (
    OutputFormat,
    print_document,
    print_line,
    print_table,
    write_blocks,
    write_duration,
    write_pairs,
    write_placements,
    write_time,
)
from blockyard.cli.release import AllocationArgument, full_name
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.enums import AllocationState
from blockyard.types import Allocation


@calls_server
def list_allocations(
    fleet: FleetArgument,
    holder: Annotated[
        str | None, typer.Option("--holder", help="Only this holder's allocations.", callback=not_empty)
    ] = None,
    state: Annotated[
        AllocationState | None,
        typer.Option("--state", case_sensitive=False, help="Only allocations in this state.", show_default="any"),
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only allocations on this instance.", callback=not_empty)
    ] = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Lists a fleet's allocations, held and ended, in the order in which they were granted."""
    with connect(server) as client:
        found = list(client.list_allocations(fleet, holder=holder, state=state, instance=instance))
    if output is OutputFormat.JSON:
        print_document({"allocations": found})
        return
    rows = (
        (
            allocation.name,
            allocation.state,
            allocation.holder,
            write_placements(allocation.placements),
            write_time(allocation.grant_time),
            write_time(allocation.end_time or allocation.expire_time),
        )
        for allocation in found
    )
    columns = ("ALLOCATION", "STATE", "HOLDER", "BLOCKS", "GRANTED", "ENDS")
    print_table(columns, rows, if_empty="No such allocations.")


@calls_server
def get_allocation(
    allocation: AllocationArgument, server: ServerOptions = NO_OPTIONS, output: Output = OutputFormat.TEXT
) -> None:
    """Shows an allocation, held or ended."""
    with connect(server) as client:
        found = client.get_allocation(full_name(allocation))
    if output is OutputFormat.JSON:
        print_document(found)
    else:
        _print_allocation(found)


def _print_allocation(allocation: Allocation) -> None:
    print_line(f"{allocation.name} is {allocation.state}")
    print_line(f"  holder         {allocation.holder}")
    for placement in allocation.placements:
        offline = "  (OFFLINE)" if placement.instance in allocation.offline_instances else ""
        print_line(f"  on             {placement.instance}  blocks {write_blocks(placement.blocks)}{offline}")
    print_line(f"  fencing token  {allocation.fencing_token}")
    print_line(f"  granted        {write_time(allocation.grant_time)}")
    print_line(f"  lease          {write_duration(allocation.ttl, if_none='none: held until released')}")
    if allocation.expire_time is not None:
        print_line(f"  expires        {write_time(allocation.expire_time)}")
    if allocation.end_time is not None:
        print_line(f"  ended          {write_time(allocation.end_time)}")
    print_line(f"  token          {allocation.idempotency_token}")
    print_line(f"  annotations    {write_pairs(allocation.annotations)}")
