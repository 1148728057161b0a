"""What PostgreSQL checks besides the constraints: the same rules as `sqlite.triggers.SQLITE_TRIGGERS`, and TRUNCATE.

By name, as texts; the migrations are what makes them in a database, and a test holds the two equal. What they raise is
of the class of constraints (23), as what a CHECK refuses. Held blocks are counted once for a statement, not once for a
row: each count is a new version of the instance's row, which the next one has to walk past. The same statement finds
their instances, so that no key has to do it for each row. POSTGRES_ROW_BY_ROW is for databases of PostgreSQL's kind
that know no other triggers (docs/adr/0006); they have the key.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

POSTGRES_FUNCTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "blockyard_refuse": """
CREATE FUNCTION blockyard_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RAISE EXCEPTION '%', array_to_string(TG_ARGV, '') USING ERRCODE = 'integrity_constraint_violation';
END $$""",
        "blockyard_count_held_blocks": """
CREATE FUNCTION blockyard_count_held_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
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
        "blockyard_uncount_held_blocks": """
CREATE FUNCTION blockyard_uncount_held_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE instances i SET busy_blocks = i.busy_blocks - h.blocks,
      exclusive_to = CASE WHEN i.busy_blocks > h.blocks THEN i.exclusive_to END
    FROM (SELECT fleet, instance, count(*) AS blocks FROM deleted GROUP BY fleet, instance) h
    WHERE i.fleet = h.fleet AND i.instance = h.instance;
  RETURN NULL;
END $$""",
        "blockyard_keep_held_blocks": """
CREATE FUNCTION blockyard_keep_held_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM held_blocks
      WHERE fleet = OLD.fleet AND instance = OLD.instance AND block >= NEW.total_blocks) THEN
    RAISE EXCEPTION 'a block that would go is held' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$""",
        "blockyard_keep_instance": """
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
        "blockyard_keep_journal": """
CREATE FUNCTION blockyard_keep_journal() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF OLD.revision > coalesce((SELECT compacted_revision FROM fleets WHERE fleet = OLD.fleet), 0) THEN
    RAISE EXCEPTION 'the journal is deleted only below the compacted revision'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN OLD;
END $$""",
    }
)
"""What the triggers call."""

POSTGRES_TRIGGERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "held_blocks_counted": """
CREATE TRIGGER held_blocks_counted AFTER INSERT ON held_blocks REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION blockyard_count_held_blocks()""",
        "held_blocks_uncounted": """
CREATE TRIGGER held_blocks_uncounted AFTER DELETE ON held_blocks REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION blockyard_uncount_held_blocks()""",
        "held_blocks_unchanging": """
CREATE TRIGGER held_blocks_unchanging BEFORE UPDATE ON held_blocks FOR EACH ROW
EXECUTE FUNCTION blockyard_refuse('a held block is never changed: it is freed and granted anew')""",
        "held_blocks_stay": """
CREATE TRIGGER held_blocks_stay BEFORE TRUNCATE ON held_blocks FOR EACH STATEMENT
EXECUTE FUNCTION blockyard_refuse('held blocks are freed one by one: they are counted')""",
        "instances_begin_idle": """
CREATE TRIGGER instances_begin_idle BEFORE INSERT ON instances FOR EACH ROW WHEN (NEW.busy_blocks <> 0)
EXECUTE FUNCTION blockyard_refuse('a new instance has busy blocks')""",
        "instances_keep_held_blocks": """
CREATE TRIGGER instances_keep_held_blocks BEFORE UPDATE ON instances FOR EACH ROW
WHEN (NEW.total_blocks < OLD.total_blocks)
EXECUTE FUNCTION blockyard_keep_held_blocks()""",
        "instances_stay_while_held": """
CREATE TRIGGER instances_stay_while_held BEFORE DELETE ON instances FOR EACH ROW
EXECUTE FUNCTION blockyard_keep_instance()""",
        "instances_keep_their_names": """
CREATE TRIGGER instances_keep_their_names BEFORE UPDATE OF fleet, instance ON instances FOR EACH ROW
WHEN (NEW.fleet <> OLD.fleet OR NEW.instance <> OLD.instance)
EXECUTE FUNCTION blockyard_keep_instance()""",
        "instances_stay": """
CREATE TRIGGER instances_stay BEFORE TRUNCATE ON instances FOR EACH STATEMENT
EXECUTE FUNCTION blockyard_refuse('instances are deleted one by one: they may have held blocks')""",
        "allocations_end_once": """
CREATE TRIGGER allocations_end_once BEFORE UPDATE ON allocations FOR EACH ROW WHEN (OLD.live = 0)
EXECUTE FUNCTION blockyard_refuse('an allocation that has ended is never changed')""",
        "allocations_stay_while_live": """
CREATE TRIGGER allocations_stay_while_live BEFORE DELETE ON allocations FOR EACH ROW WHEN (OLD.live = 1)
EXECUTE FUNCTION blockyard_refuse('a live allocation is never forgotten')""",
        "fleets_go_forward": """
CREATE TRIGGER fleets_go_forward BEFORE UPDATE ON fleets FOR EACH ROW
WHEN (NEW.revision < OLD.revision OR NEW.next_order < OLD.next_order
  OR NEW.compacted_revision < OLD.compacted_revision)
EXECUTE FUNCTION blockyard_refuse('a fleet''s revision never goes down')""",
        "fleets_stay": """
CREATE TRIGGER fleets_stay BEFORE DELETE ON fleets FOR EACH ROW
EXECUTE FUNCTION blockyard_refuse('a fleet''s row is never deleted: its revision must go on')""",
        "fleet_ages_grow": """
CREATE TRIGGER fleet_ages_grow BEFORE UPDATE ON fleet_ages FOR EACH ROW WHEN (NEW.age_us <= OLD.age_us)
EXECUTE FUNCTION blockyard_refuse('a fleet''s age only ever grows')""",
        "journal_unchanging": """
CREATE TRIGGER journal_unchanging BEFORE UPDATE ON journal FOR EACH ROW
EXECUTE FUNCTION blockyard_refuse('the journal is never changed')""",
        "journal_stays": """
CREATE TRIGGER journal_stays BEFORE DELETE ON journal FOR EACH ROW
EXECUTE FUNCTION blockyard_keep_journal()""",
        "journal_stays_whole": """
CREATE TRIGGER journal_stays_whole BEFORE TRUNCATE ON journal FOR EACH STATEMENT
EXECUTE FUNCTION blockyard_refuse('the journal is deleted only below the compacted revision')""",
    }
)
"""What they guard is in their names. The journal and the held blocks cannot be emptied at a stroke, either."""

POSTGRES_ROW_BY_ROW: Final[Mapping[str, str]] = MappingProxyType(
    {
        "blockyard_count_held_blocks": """
CREATE FUNCTION blockyard_count_held_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
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
        "blockyard_uncount_held_blocks": """
CREATE FUNCTION blockyard_uncount_held_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE instances SET busy_blocks = busy_blocks - 1,
      exclusive_to = CASE WHEN busy_blocks > 1 THEN exclusive_to END
    WHERE fleet = OLD.fleet AND instance = OLD.instance;
  RETURN NULL;
END $$""",
        "held_blocks_counted": """
CREATE TRIGGER held_blocks_counted AFTER INSERT ON held_blocks
FOR EACH ROW EXECUTE FUNCTION blockyard_count_held_blocks()""",
        "held_blocks_uncounted": """
CREATE TRIGGER held_blocks_uncounted AFTER DELETE ON held_blocks
FOR EACH ROW EXECUTE FUNCTION blockyard_uncount_held_blocks()""",
    }
)
"""In the place of those of the same name: the same counts, row by row."""
