"""An instance's row has a column for what is only kept of it.

A migration of its own: each is one transaction, which so locks one of the tables that others use, and no second.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
phase = "expand"


def upgrade() -> None:
    """Adds a column with a default, which takes no longer for many rows than for few."""
    op.add_column("instances", sa.Column("spec", sa.Text, nullable=False, server_default=sa.text("'{}'")))
