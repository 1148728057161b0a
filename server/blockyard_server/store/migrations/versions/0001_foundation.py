"""Fleets, instances, allocations, held blocks, tokens and the journal, with what guards them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SQLITE = {"sqlite_strict": True, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Makes every table, index and trigger."""
    _create_fleets()
    _create_instances()
    _create_allocations()
    _create_held_blocks()
    _create_tokens()
    _create_journal()
    if op.get_context().dialect.name == "sqlite":
        for trigger in _SQLITE_TRIGGERS:
            op.execute(trigger)


def _create_fleets() -> None:
    op.create_table(
        "fleets",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("revision", _BIG, nullable=False),
        sa.Column("next_order", _BIG, nullable=False),
        sa.Column("deleted", sa.Integer, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("default_placement_strategy", sa.Text, nullable=False),
        sa.Column("default_ttl_us", _BIG),
        sa.Column("max_ttl_us", _BIG),
        sa.Column("config_revision", _BIG, nullable=False),
        sa.Column("create_time_us", _BIG, nullable=False),
        sa.Column("update_time_us", _BIG, nullable=False),
        sa.Column("compacted_revision", _BIG, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("fleet", name=op.f("pk_fleets")),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_fleets_revision")),
        sa.CheckConstraint("next_order >= 1", name=op.f("ck_fleets_next_order")),
        sa.CheckConstraint("deleted IN (0, 1)", name=op.f("ck_fleets_deleted")),
        sa.CheckConstraint(
            "default_placement_strategy IN ('FIRST_FIT', 'BEST_FIT', 'WORST_FIT')", name=op.f("ck_fleets_strategy")
        ),
        sa.CheckConstraint("default_ttl_us > 0", name=op.f("ck_fleets_default_ttl")),
        sa.CheckConstraint("max_ttl_us > 0", name=op.f("ck_fleets_max_ttl")),
        sa.CheckConstraint("compacted_revision BETWEEN 0 AND revision", name=op.f("ck_fleets_compacted_revision")),
        **_SQLITE,
    )


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("instance", _NAME, nullable=False),
        sa.Column("instance_order", _BIG, nullable=False),
        sa.Column("total_blocks", sa.Integer, nullable=False),
        sa.Column("busy_blocks", sa.Integer, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("resources", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("config_revision", _BIG, nullable=False),
        sa.Column("create_time_us", _BIG, nullable=False),
        sa.Column("update_time_us", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("fleet", "instance", name=op.f("pk_instances")),
        sa.UniqueConstraint("fleet", "instance_order", name="uq_instances_order"),
        sa.ForeignKeyConstraint(["fleet"], ["fleets.fleet"], name="fk_instances_fleet"),
        sa.CheckConstraint("instance_order >= 1", name=op.f("ck_instances_instance_order")),
        sa.CheckConstraint("total_blocks BETWEEN 1 AND 4096", name=op.f("ck_instances_total_blocks")),
        sa.CheckConstraint("busy_blocks BETWEEN 0 AND total_blocks", name=op.f("ck_instances_busy_blocks")),
        sa.CheckConstraint("state IN ('ACTIVE', 'CORDONED', 'OFFLINE')", name=op.f("ck_instances_state")),
        **_SQLITE,
    )


def _create_allocations() -> None:
    op.create_table(
        "allocations",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("allocation", _BIG, nullable=False),
        sa.Column("live", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("holder", _NAME, nullable=False),
        sa.Column("caller", _NAME, nullable=False),
        sa.Column("token", _NAME, nullable=False),
        sa.Column("granted", sa.Text, nullable=False),
        sa.Column("remaining", sa.Text),
        sa.Column("ttl_us", _BIG),
        sa.Column("grant_time_us", _BIG, nullable=False),
        sa.Column("expire_time_us", _BIG),
        sa.Column("end_time_us", _BIG),
        sa.Column("annotations", sa.Text, nullable=False),
        sa.Column("revision", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("fleet", "allocation", name=op.f("pk_allocations")),
        sa.CheckConstraint("allocation >= 1", name=op.f("ck_allocations_allocation")),
        sa.CheckConstraint(
            "(live = 1 AND state = 'HELD' AND end_time_us IS NULL)"
            " OR (live = 0 AND state IN ('RELEASED', 'EXPIRED') AND end_time_us IS NOT NULL)",
            name=op.f("ck_allocations_state"),
        ),
        sa.CheckConstraint("(ttl_us IS NULL) = (expire_time_us IS NULL)", name=op.f("ck_allocations_lease")),
        sa.CheckConstraint("revision >= allocation", name=op.f("ck_allocations_revision")),
        **_SQLITE,
    )
    op.create_index("ix_allocations_live", "allocations", ["fleet", "live", "allocation"], unique=True)
    op.create_index("ix_allocations_holder", "allocations", ["fleet", "holder", "allocation"])
    due = sa.text("live = 1 AND expire_time_us IS NOT NULL")
    op.create_index(
        "ix_allocations_due", "allocations", ["fleet", "live", "expire_time_us"], sqlite_where=due, postgresql_where=due
    )
    ended = sa.text("live = 0")
    op.create_index(
        "ix_allocations_ended",
        "allocations",
        ["fleet", "live", "end_time_us"],
        sqlite_where=ended,
        postgresql_where=ended,
    )


def _create_held_blocks() -> None:
    op.create_table(
        "held_blocks",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("instance", _NAME, nullable=False),
        sa.Column("block", sa.Integer, nullable=False),
        sa.Column("allocation", _BIG, nullable=False),
        sa.Column("live", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("fleet", "instance", "block", name=op.f("pk_held_blocks")),
        sa.ForeignKeyConstraint(
            ["fleet", "instance"], ["instances.fleet", "instances.instance"], name="fk_held_blocks_instance"
        ),
        sa.ForeignKeyConstraint(
            ["fleet", "live", "allocation"],
            ["allocations.fleet", "allocations.live", "allocations.allocation"],
            name="fk_held_blocks_live_allocation",
        ),
        sa.CheckConstraint("live = 1", name=op.f("ck_held_blocks_live")),
        sa.CheckConstraint("block >= 0", name=op.f("ck_held_blocks_block")),
        **_SQLITE,
    )
    op.create_index("ix_held_blocks_allocation", "held_blocks", ["fleet", "live", "allocation"])


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("caller", _NAME, nullable=False),
        sa.Column("token", _NAME, nullable=False),
        sa.Column("allocation", _BIG),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("revision", _BIG, nullable=False),
        sa.Column("time_us", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("fleet", "caller", "token", name=op.f("pk_tokens")),
        **_SQLITE,
    )
    cancelled = sa.text("allocation IS NULL")
    op.create_index(
        "ix_tokens_cancelled", "tokens", ["fleet", "time_us"], sqlite_where=cancelled, postgresql_where=cancelled
    )


def _create_journal() -> None:
    op.create_table(
        "journal",
        sa.Column("fleet", _NAME, nullable=False),
        sa.Column("revision", _BIG, nullable=False),
        sa.Column("time_us", _BIG, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("allocation", _BIG),
        sa.Column("instance", _NAME),
        sa.Column("holder", _NAME),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fleet", "revision", name=op.f("pk_journal")),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_journal_revision")),
        **_SQLITE,
    )


_SQLITE_TRIGGERS = (
    """
CREATE TRIGGER held_blocks_counted AFTER INSERT ON held_blocks BEGIN
  UPDATE instances SET busy_blocks = CASE
    WHEN NEW.block < total_blocks THEN busy_blocks + 1
    ELSE RAISE(ABORT, 'a held block is not one of its instance''s blocks')
  END WHERE fleet = NEW.fleet AND instance = NEW.instance;
END""",
    """
CREATE TRIGGER held_blocks_uncounted AFTER DELETE ON held_blocks BEGIN
  UPDATE instances SET busy_blocks = busy_blocks - 1 WHERE fleet = OLD.fleet AND instance = OLD.instance;
END""",
    """
CREATE TRIGGER held_blocks_unchanging BEFORE UPDATE ON held_blocks BEGIN
  SELECT RAISE(ABORT, 'a held block is never changed: it is freed and granted anew');
END""",
    """
CREATE TRIGGER instances_begin_idle BEFORE INSERT ON instances WHEN NEW.busy_blocks <> 0 BEGIN
  SELECT RAISE(ABORT, 'a new instance has busy blocks');
END""",
    """
CREATE TRIGGER instances_keep_held_blocks BEFORE UPDATE OF total_blocks ON instances
WHEN NEW.total_blocks < OLD.total_blocks BEGIN
  SELECT RAISE(ABORT, 'a block that would go is held') FROM held_blocks
    WHERE fleet = OLD.fleet AND instance = OLD.instance AND block >= NEW.total_blocks;
END""",
    """
CREATE TRIGGER allocations_end_once BEFORE UPDATE ON allocations WHEN OLD.live = 0 BEGIN
  SELECT RAISE(ABORT, 'an allocation that has ended is never changed');
END""",
    """
CREATE TRIGGER allocations_stay_while_live BEFORE DELETE ON allocations WHEN OLD.live = 1 BEGIN
  SELECT RAISE(ABORT, 'a live allocation is never forgotten');
END""",
    """
CREATE TRIGGER fleets_go_forward BEFORE UPDATE ON fleets
WHEN NEW.revision < OLD.revision OR NEW.next_order < OLD.next_order
  OR NEW.compacted_revision < OLD.compacted_revision BEGIN
  SELECT RAISE(ABORT, 'a fleet''s revision never goes down');
END""",
    """
CREATE TRIGGER fleets_stay BEFORE DELETE ON fleets BEGIN
  SELECT RAISE(ABORT, 'a fleet''s row is never deleted: its revision must go on');
END""",
    """
CREATE TRIGGER journal_unchanging BEFORE UPDATE ON journal BEGIN
  SELECT RAISE(ABORT, 'the journal is never changed');
END""",
    """
CREATE TRIGGER journal_stays BEFORE DELETE ON journal
WHEN OLD.revision > coalesce((SELECT compacted_revision FROM fleets WHERE fleet = OLD.fleet), 0) BEGIN
  SELECT RAISE(ABORT, 'the journal is deleted only below the compacted revision');
END""",
)
