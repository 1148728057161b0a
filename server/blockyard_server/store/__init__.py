"""Keeps fleets in a database: the one package that speaks SQL.

`sqlite.SqliteStore` implements the protocol that the engine owns (`engine.store_protocol`); of the engine nothing
else is imported here, and of the domain only values. Nothing is decided here: `rows` works out which rows a batch of
events changes, and the database itself refuses what must not be (`schema`, docs/adr/0004-sqlite-store.md).
"""
