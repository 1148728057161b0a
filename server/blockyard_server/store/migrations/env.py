"""What Alembic runs: the migrations, on the connection and in the transaction that `migrate` hands over."""

from alembic import context

from blockyard_server.store.migrate import SCHEMA_TABLE
from blockyard_server.store.schema import metadata

_attributes = context.config.attributes
context.configure(
    connection=_attributes["connection"],
    target_metadata=metadata,
    version_table=_attributes.get("version_table", SCHEMA_TABLE),
)
context.run_migrations()
