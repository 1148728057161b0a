"""The database says which one it is, how often it was restored, and at which revision new fleets begin."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
phase = "expand"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds a table with its one row."""
    table = op.create_table(
        "origin",
        sa.Column("database_id", sa.Text, nullable=False),
        sa.Column("epoch", _BIG, nullable=False),
        sa.Column("first_revision", _BIG, nullable=False),
        sa.Column("restoring", sa.Integer, nullable=False),
        sa.Column("system_identifier", sa.Text),
        sa.Column("timeline", _BIG),
        sa.PrimaryKeyConstraint("database_id", name=op.f("pk_origin")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    row = {
        "database_id": secrets.token_hex(16),
        "epoch": 0,
        "first_revision": 0,
        "restoring": 0,
    }
    op.bulk_insert(table, [row])
