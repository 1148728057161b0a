"""What SQLite checks besides the constraints; the same rules as `postgres.triggers`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SQLITE_TRIGGERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "held_blocks_counted": """
CREATE TRIGGER held_blocks_counted AFTER INSERT ON held_blocks BEGIN
  UPDATE instances SET busy_blocks = CASE
    WHEN NEW.block >= total_blocks THEN RAISE(ABORT, 'a held block is not one of its instance''s blocks')
    WHEN exclusive_to <> NEW.allocation THEN RAISE(ABORT, 'another allocation holds the instance exclusively')
    ELSE busy_blocks + 1
  END WHERE fleet = NEW.fleet AND instance = NEW.instance;
END""",
        "held_blocks_uncounted": """
CREATE TRIGGER held_blocks_uncounted AFTER DELETE ON held_blocks BEGIN
  UPDATE instances SET busy_blocks = busy_blocks - 1,
    exclusive_to = CASE WHEN busy_blocks > 1 THEN exclusive_to END
  WHERE fleet = OLD.fleet AND instance = OLD.instance;
END""",
        "held_blocks_unchanging": """
CREATE TRIGGER held_blocks_unchanging BEFORE UPDATE ON held_blocks BEGIN
  SELECT RAISE(ABORT, 'a held block is never changed: it is freed and granted anew');
END""",
        "instances_begin_idle": """
CREATE TRIGGER instances_begin_idle BEFORE INSERT ON instances WHEN NEW.busy_blocks <> 0 BEGIN
  SELECT RAISE(ABORT, 'a new instance has busy blocks');
END""",
        "instances_keep_held_blocks": """
CREATE TRIGGER instances_keep_held_blocks BEFORE UPDATE OF total_blocks ON instances
WHEN NEW.total_blocks < OLD.total_blocks BEGIN
  SELECT RAISE(ABORT, 'a block that would go is held') FROM held_blocks
    WHERE fleet = OLD.fleet AND instance = OLD.instance AND block >= NEW.total_blocks;
END""",
        "allocations_end_once": """
CREATE TRIGGER allocations_end_once BEFORE UPDATE ON allocations WHEN OLD.live = 0 BEGIN
  SELECT RAISE(ABORT, 'an allocation that has ended is never changed');
END""",
        "allocations_stay_while_live": """
CREATE TRIGGER allocations_stay_while_live BEFORE DELETE ON allocations WHEN OLD.live = 1 BEGIN
  SELECT RAISE(ABORT, 'a live allocation is never forgotten');
END""",
        "fleets_go_forward": """
CREATE TRIGGER fleets_go_forward BEFORE UPDATE ON fleets
WHEN NEW.revision < OLD.revision OR NEW.next_order < OLD.next_order
  OR NEW.compacted_revision < OLD.compacted_revision BEGIN
  SELECT RAISE(ABORT, 'a fleet''s revision never goes down');
END""",
        "fleets_stay": """
CREATE TRIGGER fleets_stay BEFORE DELETE ON fleets BEGIN
  SELECT RAISE(ABORT, 'a fleet''s row is never deleted: its revision must go on');
END""",
        "fleet_ages_grow": """
CREATE TRIGGER fleet_ages_grow BEFORE UPDATE ON fleet_ages WHEN NEW.age_us <= OLD.age_us BEGIN
  SELECT RAISE(ABORT, 'a fleet''s age only ever grows');
END""",
        "journal_unchanging": """
CREATE TRIGGER journal_unchanging BEFORE UPDATE ON journal BEGIN
  SELECT RAISE(ABORT, 'the journal is never changed');
END""",
        "journal_stays": """
CREATE TRIGGER journal_stays BEFORE DELETE ON journal
WHEN OLD.revision > coalesce((SELECT compacted_revision FROM fleets WHERE fleet = OLD.fleet), 0) BEGIN
  SELECT RAISE(ABORT, 'the journal is deleted only below the compacted revision');
END""",
    }
)
"""What SQLite checks besides the constraints, by name: the text as the database keeps it."""
