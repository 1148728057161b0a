"""`blockyard token new` and `blockyard auth check`: for people who write an auth file. They call no server."""

import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.help_page import show_help
from blockyard.cli.option_values import MalformedValue, read_instant
from blockyard.cli.options import Output
from blockyard.cli.output import OutputFormat, print_document, print_line, tell

if TYPE_CHECKING:
    from blockyard_server.rpc.auth.auth_file import AuthFile

token_app = typer.Typer(callback=show_help, invoke_without_command=True, help="Make tokens for an auth file.")
auth_app = typer.Typer(
    callback=show_help, invoke_without_command=True, help="Who you are to a server; whether an auth file is good."
)


def _parse_not_after(text: str) -> datetime:
    now = datetime.now(UTC)
    try:
        instant = read_instant(text, now)
    except MalformedValue as error:
        raise typer.BadParameter(str(error)) from None
    if instant <= now:
        raise typer.BadParameter(f"{text!r} is over already.")
    return instant


@token_app.command("new")
def new_token(
    principal: Annotated[str, typer.Argument(metavar="PRINCIPAL", help="The principal's id in the auth file.")],
    *,
    not_after: Annotated[
        datetime | None,
        typer.Option(
            "--not-after",
            metavar="TIME",
            parser=_parse_not_after,
            help="From when on the token is refused: 2027-01-01T00:00:00Z, or a time from now, such as 90d.",
            show_default="never",
        ),
    ] = None,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Makes a token, and shows it once, with the line for the auth file. Nothing is stored.

    The line has only a digest of the token. Give the token to the client and the line to the server.
    """
    from blockyard_server.rpc.auth import tokens  # noqa: PLC0415  # only this command needs it
    from blockyard_server.rpc.names import ID_RULE, is_id  # noqa: PLC0415  # the same

    if not is_id(principal):
        raise CommandFailed(f"{principal!r} is no principal's id: it must be {ID_RULE}.", exit_code=ExitCode.USAGE)
    made = tokens.new_token()
    if output is OutputFormat.JSON:
        print_document(
            {
                "principal": principal,
                "token": made.secret,
                "id": made.id,
                "sha256": made.sha256,
                "not_after": not_after,
                "toml": made.toml(not_after),
            }
        )
        return
    print_line(made.secret)
    print_line()
    print_line("This token is not shown again. Add its line to the entry of the principal in the auth file:")
    print_line()
    print_line("[[principal]]")
    print_line(f'id = "{principal}"')
    print_line(f"tokens = [{made.toml(not_after)}]")


@auth_app.command("check")
def check_auth_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The auth file.")],
    *,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Reads an auth file as a server does, and says all that is wrong with it.

    Other files that it names, such as keys of an issuer, are not read.

    Exit code 0: a server would take it, perhaps with warnings. 2: a server would refuse it.
    """
    from blockyard_server.rpc.auth.auth_file import AuthFileRefused, load_auth_file  # noqa: PLC0415  # see above

    try:
        found = load_auth_file(file)
    except AuthFileRefused as refused:
        _print_problems(file, refused.problems, output)
        raise typer.Exit(ExitCode.USAGE) from None
    warnings = [*found.warnings, *_warnings_of_today(found)]
    tokens = sum(len(principal.tokens) for principal in found.principals)
    if output is OutputFormat.JSON:
        print_document(
            {
                "file": str(file),
                "good": True,
                "principals": len(found.principals),
                "tokens": tokens,
                "issuers": len(found.issuers),
                "problems": [],
                "warnings": warnings,
            }
        )
        return
    counts = ", ".join(
        f"{number} {noun}{'' if number == 1 else 's'}"
        for number, noun in ((len(found.principals), "principal"), (tokens, "token"), (len(found.issuers), "issuer"))
    )
    print_line(f"{file} is good: {counts}.")
    for warning in warnings:
        print_line(f"warning: {warning}")


def _print_problems(file: Path, problems: tuple[str, ...], output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_document({"file": str(file), "good": False, "problems": problems, "warnings": []})
        return
    for problem in problems:
        tell(problem)
    tell(f"{file} would be refused.")


def _warnings_of_today(file: "AuthFile") -> list[str]:
    now_s = time.time()
    warnings = [
        f"principal {number} ({principal.id}): the token {token.id} has expired"
        for number, principal in enumerate(file.principals, start=1)
        for token in principal.tokens
        if token.not_after_s is not None and token.not_after_s <= now_s
    ]
    if file.issuers and find_spec("jwt") is None:
        warnings.append("PyJWT is not installed here; a server with an issuer needs it: pip install 'blockyard[jwt]'")
    return warnings
