"""`blockyard auth whoami` and `blockyard auth can-i`: who the server takes you for, and what you may do."""

from typing import Annotated

import typer

from blockyard.cli.connection import connect
from blockyard.cli.failures import EndsWith, ExitCode
from blockyard.cli.options import FleetOption, Output
from blockyard.cli.output import OutputFormat, print_document, print_line, write_time
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.enums import Permission

_NOBODY_ASKS = "none"
"""The `via` of a server that does not ask who calls."""


@calls_server
def whoami(server: ServerOptions = NO_OPTIONS, output: Output = OutputFormat.TEXT) -> None:
    """Shows who the server takes you for, and your roles."""
    with connect(server) as client:
        found = client.who_am_i()
    if output is OutputFormat.JSON:
        print_document(found)
        return
    print_line(f"{found.principal} of tenant {found.tenant}")
    asks = "" if found.via != _NOBODY_ASKS else ": the server does not ask who calls, and everybody may do everything"
    print_line(f"  known by  {found.via}{asks}")
    print_line(f"  until     {write_time(found.expire_time) if found.expire_time else 'no end of its own'}")
    for grant in found.grants:
        print_line(f"  role      {grant.role} on {', '.join(grant.fleets)}")


@calls_server
def can_i(
    permission: Annotated[Permission, typer.Argument(metavar="PERMISSION", case_sensitive=False)],
    fleet: FleetOption,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Says whether you have a permission on a fleet; exit code 1 if not. The fleet need not exist.

    PERMISSION is read, read_holders, acquire, release_any, instances, verify, plan_repair, repair or fleets.
    """
    with connect(server) as client:
        permitted = client.can_i(permission, fleet)
    if output is OutputFormat.JSON:
        print_document({"permitted": permitted})
    else:
        print_line("yes" if permitted else "no")
    if not permitted:
        raise EndsWith(ExitCode.REFUSED)
