"""`blockyard admin`: what an operator does to the data while no server runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.options import Output
from blockyard.cli.output import OutputFormat, print_document
from blockyard.cli.restore import Bump, document_of, expect_parts, now_us, print_report

if TYPE_CHECKING:
    from blockyard_server.engine.restore import Report
    from blockyard_server.engine.store_protocol import Store

admin_app = typer.Typer(
    name="admin", help="What an operator does to the data while no server runs.", no_args_is_help=True
)


@admin_app.callback()
def _admin() -> None:
    """What an operator does to the data while no server runs."""


@admin_app.command("restored")
def restored_command(
    *,
    data: Annotated[
        Path | None, typer.Option("--data", envvar="BLOCKYARD_DATA", help="The server's SQLite file.")
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", envvar="BLOCKYARD_DATABASE", help="The URL of the PostgreSQL.")
    ] = None,
    schema: Annotated[
        str, typer.Option("--database-schema", envvar="BLOCKYARD_DATABASE_SCHEMA", help="Where the tables are.")
    ] = "",
    bump: Bump = None,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Says that the data was restored from a backup by another program, so that nothing is issued twice.

    For a PostgreSQL, and for a data file that was copied by hand. No server may run. Running it once more harms
    nothing. For a backup of `blockyard backup`, `blockyard restore` does this, too.

    Exit code 0: servers may start. 1: it has not ended; run it again. 2: nothing was changed.
    """
    if (data is None) == (database is None):
        raise CommandFailed("Name the data: either --data or --database.", exit_code=ExitCode.USAGE)
    expect_parts()
    if data is not None and not data.expanduser().is_file():
        raise CommandFailed(f"There is no data file {data}.", exit_code=ExitCode.USAGE)
    from blockyard_server.domain.restore import BumpTooSmall  # noqa: PLC0415  # see serve
    from blockyard_server.engine.store_protocol import InvariantBroken, StoreFailed, StoreRefused  # noqa: PLC0415  # see serve

    try:
        report = asyncio.run(_restored(data, database, schema, bump))
    except (BumpTooSmall, StoreRefused) as refused:
        raise CommandFailed(f"{str(refused).rstrip('.')}.", exit_code=ExitCode.USAGE) from refused
    except (StoreFailed, InvariantBroken) as failed:
        raise CommandFailed(f"It has not ended: {failed}. Run it again.", exit_code=ExitCode.REFUSED) from failed
    if output is OutputFormat.JSON:
        print_document(document_of(report))
    else:
        print_report(report, report.fleets)


async def _restored(data: Path | None, database: str | None, schema: str, bump: int | None) -> "Report":
    from blockyard_server.engine.restore import restore_alone  # noqa: PLC0415  # see serve

    async with _opened(data, database, schema) as store:
        return await restore_alone(store, now_us(), bump)


@asynccontextmanager
async def _opened(data: Path | None, database: str | None, schema: str) -> "AsyncIterator[Store]":
    from blockyard_server.store.postgres.store import PostgresStore  # noqa: PLC0415  # see serve
    from blockyard_server.store.sqlite.store import SqliteStore  # noqa: PLC0415  # see serve

    store: Store = SqliteStore(data) if data is not None else PostgresStore(database or "", schema=schema)
    await asyncio.to_thread(store.open)
    try:
        yield store
    finally:
        await store.close()
