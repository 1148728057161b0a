"""On PostgreSQL a held block's instance is checked once for a statement, and no longer by a key for each row.

Checking the key was half of the time of a large grant (docs/adr/0017). The trigger that counts the held blocks finds
each instance of a statement anyway; a new trigger keeps an instance for as long as it has held blocks.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Puts triggers in the place of the key, but not in databases that count row by row: they keep the key."""
    if op.get_context().dialect.name != "postgresql" or _counts_row_by_row():
        return
    for text in _INSTEAD:
        op.execute(text)
    op.execute("ALTER TABLE held_blocks DROP CONSTRAINT fk_held_blocks_instance")


def _counts_row_by_row() -> bool:
    """Whether the triggers that count are for each row (see 0003)."""
    found = op.get_bind().exec_driver_sql(
        "SELECT tgtype & 1 FROM pg_trigger"
        " WHERE tgname = 'held_blocks_counted' AND tgrelid = CAST('held_blocks' AS regclass)"
    )
    return bool(found.scalar_one())


_INSTEAD = (
    """
CREATE FUNCTION blockyard_keep_instance() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM held_blocks WHERE fleet = OLD.fleet AND instance = OLD.instance) THEN
    RAISE EXCEPTION 'an instance with held blocks stays, and keeps its name'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF TG_OP = 'DELETE' THEN
    RETURN OLD;
  END IF;
  RETURN NEW;
END $$""",
    """
CREATE TRIGGER instances_stay_while_held BEFORE DELETE ON instances FOR EACH ROW
EXECUTE FUNCTION blockyard_keep_instance()""",
    """
CREATE TRIGGER instances_keep_their_names BEFORE UPDATE OF fleet, instance ON instances FOR EACH ROW
WHEN (NEW.fleet <> OLD.fleet OR NEW.instance <> OLD.instance)
EXECUTE FUNCTION blockyard_keep_instance()""",
    """
CREATE TRIGGER instances_stay BEFORE TRUNCATE ON instances FOR EACH STATEMENT
EXECUTE FUNCTION blockyard_refuse('instances are deleted one by one: they may have held blocks')""",
)
