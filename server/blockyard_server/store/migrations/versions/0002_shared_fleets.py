"""What servers that share a database tell each other in a fleet's row: that its writes are stopped, and its time."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns."""
    op.execute(
        "ALTER TABLE fleets ADD COLUMN halted INTEGER DEFAULT 0 NOT NULL"
        " CONSTRAINT ck_fleets_halted CHECK (halted IN (0, 1))"
    )
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("fleets", sa.Column("clock_offset_us", big, nullable=False, server_default=sa.text("0")))
