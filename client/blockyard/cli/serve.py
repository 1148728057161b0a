"""`blockyard serve`: runs the service. With `blockyard backup` the only part of the command line that knows the server.

The options are the server's settings: each field of `Settings` is one, with its environment variable and default, so
that a new setting is an option at once.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

from blockyard.cli.demo import DEMO_FLEET, create_demo_fleet
from blockyard.cli.failures import CommandFailed, ExitCode, OutputClosed, explain
from blockyard.cli.output import print_line, tell
from blockyard.client import Client
from blockyard.errors import BlockyardError
from blockyard_server.settings import Settings, SettingsRefused

if TYPE_CHECKING:
    from blockyard_server.app import RunningServer


def serve_command() -> Callable[..., None]:
    """The command, with an option for each setting."""

    def serve(*, context: typer.Context, demo: bool, **values: Any) -> None:
        _expect_one_place(context)
        _serve(values, demo=demo)

    hints = get_type_hints(Settings)
    options = [_option(setting, hints[setting.name]) for setting in fields(Settings)]
    help_ = f"Make a small fleet {DEMO_FLEET!r} to look at, unless it exists."
    options.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    options.append(_parameter("demo", bool, typer.Option("--demo", help=help_), default=False))
    setattr(serve, "__signature__", inspect.Signature(options))  # noqa: B010  # functions do not declare it
    serve.__doc__ = "Runs the service until Ctrl-C or SIGTERM, then answers what it has accepted and stops."
    return serve


def _expect_one_place(context: typer.Context) -> None:
    """Settings have a default for `data`: only here can be told whether anybody asked for it."""
    sources = {name: context.get_parameter_source(name) for name in ("data", "database")}
    if all(source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"} for source in sources.values()):
        raise CommandFailed(
            "data and database are both given, and the data can only be in one of them.",
            next_step="Leave out --data (or BLOCKYARD_DATA), or --database (or BLOCKYARD_DATABASE).",
            exit_code=ExitCode.USAGE,
        )


def _serve(values: dict[str, Any], *, demo: bool) -> None:
    try:
        settings = Settings(**values)
    except SettingsRefused as refused:
        raise CommandFailed(
            f"{refused}.", next_step="`blockyard serve --help` shows the settings.", exit_code=ExitCode.USAGE
        ) from refused
    if demo and settings.admin_socket is None and (settings.tls_cert or settings.auth_file):
        raise CommandFailed(
            "The demo fleet is made through a listener that asks for nothing, and this server has none.",
            next_step="Give --admin-socket, too, or leave out --demo.",
            exit_code=ExitCode.USAGE,
        )
    try:
        from blockyard_server.app import StartRefused, serve_forever  # noqa: PLC0415  # clients may lack its parts
    except ModuleNotFoundError as missing:
        raise CommandFailed(
            f"The service needs a part that is not installed: {missing.name}.",
            next_step="Install it: pip install 'blockyard[server]'.",
            exit_code=ExitCode.USAGE,
        ) from missing
    try:
        serve_forever(settings, on_ready=lambda running: _welcome(running, settings, demo=demo))
    except StartRefused as refused:
        raise CommandFailed(f"The service does not start: {str(refused).rstrip('.')}.") from refused


def _welcome(running: "RunningServer", settings: Settings, *, demo: bool) -> None:
    new = " (a new, empty database)" if running.made_new else ""
    *others, last = running.addresses
    where = f"{', '.join(others)} and {last}" if others else last
    with contextlib.suppress(OSError, OutputClosed):  # a full disk under the output ends no service
        print_line(f"Serving on {where}, data in {settings.place}{new}. Ctrl-C stops.")
    if demo:
        address = running.address if settings.admin_socket is None else last
        # A thread, because this one is the service's own.
        threading.Thread(target=_make_demo, args=(address,), name="blockyard-demo", daemon=True).start()


def _make_demo(address: str) -> None:
    try:
        with Client(address) as client:
            made = create_demo_fleet(client)
    except BlockyardError as error:
        tell(f"The demo fleet could not be made: {explain(error).message}")
        return
    print_line(f"The fleet {DEMO_FLEET!r} {'is made' if made else 'is there already'}: blockyard describe {DEMO_FLEET}")


def _option(setting: "Field[Any]", kind: type) -> inspect.Parameter:
    flag = f"--{setting.name.replace('_', '-')}"
    least, most = setting.metadata.get("least"), setting.metadata.get("most")
    limits = "" if least is None else f" {least:,} to {most:,}."
    option = typer.Option(
        flag, envvar=f"BLOCKYARD_{setting.name.upper()}", help=f"{setting.metadata['help']}{limits}", show_default=True
    )
    default = setting.default if setting.default_factory is MISSING else setting.default_factory()
    return _parameter(setting.name, kind, option, default=default)


def _parameter(name: str, kind: type, option: Any, *, default: object) -> inspect.Parameter:
    # The kind is a value here, so the type is made as one.
    annotation = cast("Any", Annotated)[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
