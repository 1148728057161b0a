"""Brings a database to the schema of this version, or refuses one that is not ours or needs a newer server.

A schema has two numbers. `schema_version` is what it is. `alembic_version` is the oldest revision that a server must
know to work on it: that of the last migration that is not merely an expansion. So servers of an older release go on,
and may be started again, until a migration contracts what they need (docs/adr/0022).
"""

import threading
from typing import Any, Final, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect

from blockyard_server.engine.store_protocol import StoreRefused

SCHEMA_TABLE: Final = "schema_version"
OLDEST_SERVER_TABLE: Final = "alembic_version"
"""The name that release 0.1.0 looks at: it knows no other."""

# Alembic keeps the migration that runs in a global of its own.
_one_at_a_time: Final = threading.Lock()


class Migrated(NamedTuple):
    """What `migrate` did."""

    was_empty: bool
    is_current: bool
    """No migration is missing."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "blockyard_server.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: Connection, where: str, *, one_step: bool = False) -> Migrated:
    """Runs the migrations that are missing, inside the connection's transaction: all of them or none.

    `one_step`: one of them at most, so that a transaction locks little. `where` names the database in messages. Raises
    StoreRefused if it holds something else, or what only a newer version can work on.
    """
    with _one_at_a_time:
        config = _config()
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision: script for script in scripts.walk_revisions()}
        oldest_server = _revision(connection, OLDEST_SERVER_TABLE)
        found = _revision(connection, SCHEMA_TABLE)
        if oldest_server is None and inspect(connection).get_table_names():
            raise StoreRefused(f"{where} holds tables of another program. Name another place for Blockyard's data.")
        if oldest_server is not None and oldest_server not in known:
            raise StoreRefused(
                f"{where} was written by a newer version of Blockyard: its schema needs a server that knows "
                f"{oldest_server!r}, and this version knows up to {scripts.get_current_head()!r}. Start that version, "
                "or a newer one."
            )
        if found is None and oldest_server is not None:
            _context(connection, SCHEMA_TABLE).stamp(scripts, oldest_server)
            found = oldest_server
        if found is not None and (found not in known or found == scripts.get_current_head()):
            return Migrated(was_empty=False, is_current=True)  # a newer release has expanded it, or it is this one's
        config.attributes["connection"] = connection
        command.upgrade(config, "+1" if one_step else "head")
        reached = _revision(connection, SCHEMA_TABLE)
        assert reached is not None, "Alembic has noted how far it came"
        _context(connection, OLDEST_SERVER_TABLE).stamp(scripts, _oldest_server(known, reached))
        return Migrated(was_empty=oldest_server is None, is_current=reached == scripts.get_current_head())


def is_expansion(script: Script) -> bool:
    """Whether servers that do not know this migration can work beside those that do.

    It says so itself (`phase`). Those up to 0007 say nothing: before them, servers were not meant to work side by side.
    """
    return getattr(script.module, "phase", None) == "expand"


def _oldest_server(known: dict[str, Script], reached: str) -> str:
    revision = reached
    while is_expansion(known[revision]):
        before: Any = known[revision].down_revision
        assert isinstance(before, str), "the first migration is no expansion"
        revision = before
    return revision


def _context(connection: Connection, table: str) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": table})


def _revision(connection: Connection, table: str) -> str | None:
    return _context(connection, table).get_current_revision()
