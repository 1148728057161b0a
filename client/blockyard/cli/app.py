"""Puts the commands together: the only place that knows all of them."""

import typer

from blockyard.cli.acquire import acquire
from blockyard.cli.admin import admin_app
from blockyard.cli.allocations import get_allocation, list_allocations
from blockyard.cli.auth_file import auth_app, token_app
from blockyard.cli.backup import backup
from blockyard.cli.context import context_app
from blockyard.cli.describe import describe
from blockyard.cli.events import list_events
from blockyard.cli.fleet import fleet_app
from blockyard.cli.help_page import HELP_NAMES, show_overview
from blockyard.cli.identity import can_i, whoami
from blockyard.cli.instance import instance_app
from blockyard.cli.release import release, renew
from blockyard.cli.repair import repair
from blockyard.cli.replay import replay
from blockyard.cli.restore import restore
from blockyard.cli.run import run
from blockyard.cli.serve import serve_command
from blockyard.cli.top import top
from blockyard.cli.verify import verify
from blockyard.cli.watch import watch_events

_EPILOG = """
Exit codes: 0 done; 1 the service refused; 2 wrong usage or input; 3 no answer: the service cannot be reached or takes
no work now, and a change may have happened; 4 no capacity now; 70 a fault of this program; 130 interrupted; 141 the
output was closed. `verify`, `repair`, `replay` and `run` say in their help what differs.
"""

app = typer.Typer(
    name="blockyard",
    help="Allocates blocks of fleet instances to schedulers: atomically, durably, once.",
    epilog=" ".join(_EPILOG.split()),
    callback=show_overview,
    invoke_without_command=True,
    context_settings={"help_option_names": list(HELP_NAMES)},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serve_command())
app.add_typer(fleet_app, name="fleet")
app.add_typer(instance_app, name="instance")
app.command("acquire")(acquire)
app.command("release")(release)
app.command("renew")(renew)
app.command("describe")(describe)
app.command("allocations")(list_allocations)
app.command("allocation")(get_allocation)
app.command("events")(list_events)
app.command("watch")(watch_events)
app.command("top")(top)
app.command("verify")(verify)
app.command("repair")(repair)
app.command("run", context_settings={"allow_interspersed_args": False})(run)
app.command("replay")(replay)
app.command("backup")(backup)
app.command("restore")(restore)
app.add_typer(admin_app, name="admin")
app.add_typer(token_app, name="token")
app.add_typer(auth_app, name="auth")
auth_app.command("whoami")(whoami)
auth_app.command("can-i")(can_i)
app.add_typer(context_app, name="context")
