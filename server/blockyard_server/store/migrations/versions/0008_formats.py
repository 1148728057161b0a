"""A fleet's row names the format of its records, and has a column for what is only kept; servers have rows."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
phase = "expand"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds columns with defaults, which takes no longer for many rows than for few, and a table."""
    op.add_column("fleets", sa.Column("format", sa.Integer, nullable=False, server_default=sa.text("1")))
    op.add_column("fleets", sa.Column("spec", sa.Text, nullable=False, server_default=sa.text("'{}'")))
    op.create_table(
        "servers",
        sa.Column("server", _NAME, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("newest_format", sa.Integer, nullable=False),
        sa.Column("holds_format", sa.Integer, nullable=False),
        sa.Column("seen_us", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("server", name=op.f("pk_servers")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
