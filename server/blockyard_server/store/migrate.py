"""Brings a database to the schema of this version, or refuses one that is not ours or newer than we are."""

import threading
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from blockyard_server.engine.store_protocol import StoreRefused

# Alembic keeps the migration that runs in a global of its own.
_one_at_a_time: Final = threading.Lock()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "blockyard_server.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: Connection, where: str) -> bool:
    """Runs the migrations that are missing, inside the connection's transaction: all of them or none.

    Answers whether the database was empty. `where` names the database in messages. Raises StoreRefused if it holds
    something else, or was written by a newer version.
    """
    with _one_at_a_time:
        config = _config()
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision for script in scripts.walk_revisions()}
        found = MigrationContext.configure(connection).get_current_revision()
        if found is None and inspect(connection).get_table_names():
            raise StoreRefused(f"{where} holds tables of another program. Name another place for Blockyard's data.")
        if found is not None and found not in known:
            raise StoreRefused(
                f"{where} was written by a newer version of Blockyard: its schema is {found!r}, and this version knows "
                f"up to {scripts.get_current_head()!r}. Start that version, or a newer one."
            )
        if found != scripts.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return found is None
