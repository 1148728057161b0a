"""A fleet whose writes are stopped is so on every server, and after every start, until it is repaired."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the column."""
    op.execute(
        "ALTER TABLE fleets ADD COLUMN halted INTEGER DEFAULT 0 NOT NULL"
        " CONSTRAINT ck_fleets_halted CHECK (halted IN (0, 1))"
    )
