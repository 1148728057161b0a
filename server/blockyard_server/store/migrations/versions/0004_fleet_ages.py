"""How long each fleet has certainly been watched, and how old what has ended is by that: by revisions, not by times."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Makes the table, and the indexes by which what is old is found. What there is begins at age 0."""
    op.create_table(
        "fleet_ages",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("age_us", _BIG, nullable=False),
        sa.Column("marks", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fleet", name=op.f("pk_fleet_ages")),
        sa.ForeignKeyConstraint(["fleet"], ["fleets.fleet"], name="fk_fleet_ages_fleet"),
        sa.CheckConstraint("age_us > 0", name=op.f("ck_fleet_ages_age")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    ended, cancelled = sa.text("live = 0"), sa.text("allocation IS NULL")
    op.drop_index("ix_allocations_ended", "allocations")
    op.create_index(
        "ix_allocations_ended",
        "allocations",
        ["fleet", "live", "revision"],
        sqlite_where=ended,
        postgresql_where=ended,
    )
    op.drop_index("ix_tokens_cancelled", "tokens")
    op.create_index(
        "ix_tokens_cancelled", "tokens", ["fleet", "revision"], sqlite_where=cancelled, postgresql_where=cancelled
    )
    op.execute(_SQLITE_TRIGGER if op.get_context().dialect.name == "sqlite" else _POSTGRES_TRIGGER)


_SQLITE_TRIGGER = """
CREATE TRIGGER fleet_ages_grow BEFORE UPDATE ON fleet_ages WHEN NEW.age_us <= OLD.age_us BEGIN
  SELECT RAISE(ABORT, 'a fleet''s age only ever grows');
END"""

_POSTGRES_TRIGGER = """
CREATE TRIGGER fleet_ages_grow BEFORE UPDATE ON fleet_ages FOR EACH ROW WHEN (NEW.age_us <= OLD.age_us)
EXECUTE FUNCTION blockyard_refuse('a fleet''s age only ever grows')"""
