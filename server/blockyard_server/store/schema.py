"""The tables as they are now, and the triggers that guard them.

The migrations are what makes a database; a test holds the two equal. Every primary key begins with the fleet, so that
rows may be spread by it. Times are microseconds since the epoch; JSON is text, written by `codec` alone.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem

# SQLite's STRICT tables know no BIGINT: their INTEGER has 64 bits.
_Big = BigInteger().with_variant(Integer(), "sqlite")
# Names are compared by bytes, so that pages have one order on every database.
_Name = Text().with_variant(Text(collation="C"), "postgresql")

metadata: Final = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"})


def _table(name: str, *parts: SchemaItem) -> Table:
    return Table(name, metadata, *parts, sqlite_strict=True, sqlite_with_rowid=False)


fleets: Final = _table(
    "fleets",
    Column("fleet", _Name, nullable=False),
    Column("revision", _Big, nullable=False),
    Column("next_order", _Big, nullable=False),
    Column("deleted", Integer, nullable=False),
    Column("labels", Text, nullable=False),
    Column("default_placement_strategy", Text, nullable=False),
    Column("default_ttl_us", _Big),
    Column("max_ttl_us", _Big),
    Column("config_revision", _Big, nullable=False),
    Column("create_time_us", _Big, nullable=False),
    Column("update_time_us", _Big, nullable=False),
    Column("compacted_revision", _Big, nullable=False, server_default=text("0")),
    Column(
        "halted", Integer, CheckConstraint("halted IN (0, 1)", name="halted"), nullable=False, server_default=text("0")
    ),
    Column("clock_offset_us", _Big, nullable=False, server_default=text("0")),
    Column("format", Integer, nullable=False, server_default=text("1")),
    Column("spec", Text, nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("fleet"),
    CheckConstraint("revision >= 0", name="revision"),
    CheckConstraint("next_order >= 1", name="next_order"),
    CheckConstraint("deleted IN (0, 1)", name="deleted"),
    CheckConstraint("default_placement_strategy IN ('FIRST_FIT', 'BEST_FIT', 'WORST_FIT')", name="strategy"),
    CheckConstraint("default_ttl_us > 0", name="default_ttl"),
    CheckConstraint("max_ttl_us > 0", name="max_ttl"),
    CheckConstraint("compacted_revision BETWEEN 0 AND revision", name="compacted_revision"),
)

instances: Final = _table(
    "instances",
    Column("fleet", _Name, nullable=False),
    Column("instance", _Name, nullable=False),
    Column("instance_order", _Big, nullable=False),
    Column("total_blocks", Integer, nullable=False),
    Column("busy_blocks", Integer, nullable=False),
    Column("labels", Text, nullable=False),
    Column("resources", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("config_revision", _Big, nullable=False),
    Column("create_time_us", _Big, nullable=False),
    Column("update_time_us", _Big, nullable=False),
    Column("exclusive_to", _Big),
    Column("spec", Text, nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("fleet", "instance"),
    UniqueConstraint("fleet", "instance_order", name="uq_instances_order"),
    ForeignKeyConstraint(["fleet"], ["fleets.fleet"], name="fk_instances_fleet"),
    CheckConstraint("instance_order >= 1", name="instance_order"),
    CheckConstraint("total_blocks BETWEEN 1 AND 4096", name="total_blocks"),
    CheckConstraint("busy_blocks BETWEEN 0 AND total_blocks", name="busy_blocks"),
    CheckConstraint("state IN ('ACTIVE', 'CORDONED', 'OFFLINE')", name="state"),
)

allocations: Final = _table(
    "allocations",
    Column("fleet", _Name, nullable=False),
    Column("allocation", _Big, nullable=False),
    Column("live", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("holder", _Name, nullable=False),
    Column("caller", _Name, nullable=False),
    Column("token", _Name, nullable=False),
    Column("granted", Text, nullable=False),
    Column("remaining", Text),
    Column("ttl_us", _Big),
    Column("grant_time_us", _Big, nullable=False),
    Column("expire_time_us", _Big),
    Column("end_time_us", _Big),
    Column("annotations", Text, nullable=False),
    Column("revision", _Big, nullable=False),
    Column("exclusive", Text),
    PrimaryKeyConstraint("fleet", "allocation"),
    CheckConstraint("allocation >= 1", name="allocation"),
    CheckConstraint(
        "(live = 1 AND state = 'HELD' AND end_time_us IS NULL)"
        " OR (live = 0 AND state IN ('RELEASED', 'EXPIRED') AND end_time_us IS NOT NULL)",
        name="state",
    ),
    CheckConstraint("(ttl_us IS NULL) = (expire_time_us IS NULL)", name="lease"),
    CheckConstraint("revision >= allocation", name="revision"),
    # What held blocks refer to; in this order of columns it also finds the live and the ended ones, each in id order.
    Index("ix_allocations_live", "fleet", "live", "allocation", unique=True),
    Index("ix_allocations_holder", "fleet", "holder", "allocation"),
)
# `live` is among the columns so that nothing beats these indexes in the planner's eyes (docs/adr/0004).
Index(
    "ix_allocations_due",
    allocations.c.fleet,
    allocations.c.live,
    allocations.c.expire_time_us,
    sqlite_where=text("live = 1 AND expire_time_us IS NOT NULL"),
    postgresql_where=text("live = 1 AND expire_time_us IS NOT NULL"),
)
Index(
    "ix_allocations_ended",
    allocations.c.fleet,
    allocations.c.live,
    allocations.c.revision,
    sqlite_where=text("live = 0"),
    postgresql_where=text("live = 0"),
)

held_blocks: Final = _table(
    "held_blocks",
    Column("fleet", _Name, nullable=False),
    Column("instance", _Name, nullable=False),
    Column("block", Integer, nullable=False),
    Column("allocation", _Big, nullable=False),
    Column("live", Integer, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("fleet", "instance", "block"),
    # On PostgreSQL the triggers that count find the instances of a statement at once, instead of each row by this key.
    ForeignKeyConstraint(
        ["fleet", "instance"], ["instances.fleet", "instances.instance"], name="fk_held_blocks_instance"
    ).ddl_if(dialect="sqlite"),
    ForeignKeyConstraint(
        ["fleet", "live", "allocation"],
        ["allocations.fleet", "allocations.live", "allocations.allocation"],
        name="fk_held_blocks_live_allocation",
    ),
    CheckConstraint("live = 1", name="live"),
    CheckConstraint("block >= 0", name="block"),
    # All columns of the foreign key: with fewer, each end of an allocation looks at all held blocks of the fleet.
    Index("ix_held_blocks_allocation", "fleet", "live", "allocation"),
)

tokens: Final = _table(
    "tokens",
    Column("fleet", _Name, nullable=False),
    Column("caller", _Name, nullable=False),
    Column("token", _Name, nullable=False),
    Column("allocation", _Big),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("revision", _Big, nullable=False),
    Column("time_us", _Big, nullable=False),
    PrimaryKeyConstraint("fleet", "caller", "token"),
)
Index(
    "ix_tokens_cancelled",
    tokens.c.fleet,
    tokens.c.revision,
    sqlite_where=text("allocation IS NULL"),
    postgresql_where=text("allocation IS NULL"),
)

journal: Final = _table(
    "journal",
    Column("fleet", _Name, nullable=False),
    Column("revision", _Big, nullable=False),
    Column("time_us", _Big, nullable=False),
    Column("kind", Text, nullable=False),
    Column("allocation", _Big),
    Column("instance", _Name),
    Column("holder", _Name),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("fleet", "revision"),
    CheckConstraint("revision >= 1", name="revision"),
)

fleet_ages: Final = _table(
    "fleet_ages",
    Column("fleet", _Name, nullable=False),
    Column("age_us", _Big, nullable=False),
    Column("marks", Text, nullable=False),
    PrimaryKeyConstraint("fleet"),
    ForeignKeyConstraint(["fleet"], ["fleets.fleet"], name="fk_fleet_ages_fleet"),
    CheckConstraint("age_us > 0", name="age"),
)

servers: Final = _table(
    "servers",
    Column("server", _Name, nullable=False),
    Column("version", Text, nullable=False),
    Column("newest_format", Integer, nullable=False),
    Column("holds_format", Integer, nullable=False),
    Column("seen_us", _Big, nullable=False),
    PrimaryKeyConstraint("server"),
)
"""Those that work on this database, each with its last sign of life by the database's clock."""

origin: Final = _table(
    "origin",
    Column("database_id", Text, nullable=False),
    Column("epoch", _Big, nullable=False),
    Column("first_revision", _Big, nullable=False),
    Column("restoring", Integer, nullable=False),
    Column("system_identifier", Text),
    Column("timeline", _Big),
    PrimaryKeyConstraint("database_id"),
)
"""One row: which database this is, how often it was restored, and where revisions begin (docs/adr/0030)."""
