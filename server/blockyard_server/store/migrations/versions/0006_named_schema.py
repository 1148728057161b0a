"""On PostgreSQL the triggers look for the tables in their own schema, whatever the search path of who writes."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Each function begins with the search path of this session, which names the schema of the tables."""
    if op.get_context().dialect.name != "postgresql":
        return
    for name in _FUNCTIONS:
        op.execute(f"ALTER FUNCTION {name}() SET search_path FROM CURRENT")


_FUNCTIONS = (
    "blockyard_refuse",
    "blockyard_count_held_blocks",
    "blockyard_uncount_held_blocks",
    "blockyard_keep_held_blocks",
    "blockyard_keep_journal",
)
