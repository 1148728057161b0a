"""An instance that is granted exclusively is its allocation's: in the records, and by the triggers that count.

What was granted before is not marked: nobody promised then that what is added to such an instance stays its holder's.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds the columns, and has the triggers that count the held blocks look at them."""
    op.add_column("instances", sa.Column("exclusive_to", _BIG))
    op.add_column("allocations", sa.Column("exclusive", sa.Text))
    if op.get_context().dialect.name == "sqlite":
        for name in ("held_blocks_counted", "held_blocks_uncounted"):
            op.execute(f"DROP TRIGGER {name}")
        texts = _SQLITE_TRIGGERS
    else:
        texts = _COUNTING_ROW_BY_ROW if _counts_row_by_row() else _COUNTING
    for text in texts:
        op.execute(text)


def _counts_row_by_row() -> bool:
    """Whether the triggers that 0003 made are for each row: the others have a table of the rows."""
    found = op.get_bind().exec_driver_sql(
        "SELECT tgtype & 1 FROM pg_trigger"
        " WHERE tgname = 'held_blocks_counted' AND tgrelid = CAST('held_blocks' AS regclass)"
    )
    return bool(found.scalar_one())


_SQLITE_TRIGGERS = (
    """
CREATE TRIGGER held_blocks_counted AFTER INSERT ON held_blocks BEGIN
  UPDATE instances SET busy_blocks = CASE
    WHEN NEW.block >= total_blocks THEN RAISE(ABORT, 'a held block is not one of its instance''s blocks')
    WHEN exclusive_to <> NEW.allocation THEN RAISE(ABORT, 'another allocation holds the instance exclusively')
    ELSE busy_blocks + 1
  END WHERE fleet = NEW.fleet AND instance = NEW.instance;
END""",
    """
CREATE TRIGGER held_blocks_uncounted AFTER DELETE ON held_blocks BEGIN
  UPDATE instances SET busy_blocks = busy_blocks - 1,
    exclusive_to = CASE WHEN busy_blocks > 1 THEN exclusive_to END
  WHERE fleet = OLD.fleet AND instance = OLD.instance;
END""",
)

_COUNTING = (
    """
CREATE OR REPLACE FUNCTION blockyard_count_held_blocks() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  expected bigint;
  counted bigint;
BEGIN
  WITH h AS (
    SELECT fleet, instance, count(*) AS blocks, max(block) AS last,
      min(allocation) AS least, max(allocation) AS most FROM inserted GROUP BY fleet, instance
  ), i AS (
    UPDATE instances SET busy_blocks = busy_blocks + h.blocks FROM h
      WHERE instances.fleet = h.fleet AND instances.instance = h.instance AND h.last < instances.total_blocks
        AND (exclusive_to IS NULL OR (exclusive_to = h.least AND exclusive_to = h.most))
      RETURNING 1
  )
  SELECT (SELECT count(*) FROM h), (SELECT count(*) FROM i) INTO expected, counted;
  IF counted <> expected THEN
    IF EXISTS (SELECT 1 FROM inserted h JOIN instances i ON i.fleet = h.fleet AND i.instance = h.instance
        WHERE i.exclusive_to <> h.allocation) THEN
      RAISE EXCEPTION 'another allocation holds the instance exclusively'
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RAISE EXCEPTION 'a held block is not one of its instance''s blocks'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$""",
    """
CREATE OR REPLACE FUNCTION blockyard_uncount_held_blocks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE instances i SET busy_blocks = i.busy_blocks - h.blocks,
      exclusive_to = CASE WHEN i.busy_blocks > h.blocks THEN i.exclusive_to END
    FROM (SELECT fleet, instance, count(*) AS blocks FROM deleted GROUP BY fleet, instance) h
    WHERE i.fleet = h.fleet AND i.instance = h.instance;
  RETURN NULL;
END $$""",
)

_COUNTING_ROW_BY_ROW = (
    """
CREATE OR REPLACE FUNCTION blockyard_count_held_blocks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM instances i
      WHERE i.fleet = NEW.fleet AND i.instance = NEW.instance AND NEW.block >= i.total_blocks) THEN
    RAISE EXCEPTION 'a held block is not one of its instance''s blocks'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF EXISTS (SELECT 1 FROM instances i
      WHERE i.fleet = NEW.fleet AND i.instance = NEW.instance AND i.exclusive_to <> NEW.allocation) THEN
    RAISE EXCEPTION 'another allocation holds the instance exclusively'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  UPDATE instances SET busy_blocks = busy_blocks + 1 WHERE fleet = NEW.fleet AND instance = NEW.instance;
  RETURN NULL;
END $$""",
    """
CREATE OR REPLACE FUNCTION blockyard_uncount_held_blocks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE instances SET busy_blocks = busy_blocks - 1,
      exclusive_to = CASE WHEN busy_blocks > 1 THEN exclusive_to END
    WHERE fleet = OLD.fleet AND instance = OLD.instance;
  RETURN NULL;
END $$""",
)
