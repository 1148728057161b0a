"""Which schema of a database holds the tables: the one that is named, or the only one that has them.

The search path decides nothing but where the tables of an empty database are made: a role's or a database's can be
changed by an administrator, and may put another schema with tables of the same names first.
"""

from typing import Final

import psycopg

from blockyard_server.engine.store_protocol import StoreRefused

_TABLES: Final = ("alembic_version", "fleets", "instances", "allocations", "held_blocks", "tokens", "journal")
"""What every release has made."""
_HOLDING: Final = b"""
SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = ANY (%s) AND n.nspname NOT LIKE 'pg\\_temp\\_%%' AND has_schema_privilege(n.oid, 'USAGE')
GROUP BY n.nspname HAVING count(*) = %s ORDER BY n.nspname"""
_EXISTS: Final = b"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s"


def find_schema(connection: psycopg.Connection[tuple[object, ...]], first: str | None, named: str, where: str) -> str:
    """The schema of the tables, or the one to make them in.

    `first` is the first schema of the search path that the session began with, `named` the one of the settings or "",
    `where` names the database in messages. The session must see PostgreSQL's own schema alone. Raises StoreRefused.
    """
    if named:
        if connection.execute(_EXISTS, (named,)).fetchone() is None:
            raise StoreRefused(f'{where} has no schema {named!r}. Make it (CREATE SCHEMA "{named}"), or name another.')
        return named
    holding = [str(row[0]) for row in connection.execute(_HOLDING, (list(_TABLES), len(_TABLES))).fetchall()]
    if len(holding) > 1:
        raise StoreRefused(
            f"{where} has tables of Blockyard in more than one schema ({', '.join(holding)}). Say which of them are "
            "this server's with --database-schema."
        )
    if holding:
        return holding[0]
    if first is None:
        raise StoreRefused(
            f"{where} has no schema for the tables: none of the search path exists. Make one, or name one with "
            "--database-schema."
        )
    return first
