"""What a repair does to the rows: the corrections of its event, one by one, with the guards of the database in force.

A counter moves with its rows, by triggers, and a damaged one would leave its range on the way. So while rows of an
instance are mended its counter is put where the next row cannot take it out of range. In the end the database sets it
out of the rows themselves, and who holds the instance exclusively out of the allocations: never by a number that a
program has computed, and never for anybody to see in between.
"""

# The texts are constants; values are always parameters. They are the same for every database, but for the placeholder.

from collections.abc import Callable, Sequence
from typing import Final

from blockyard_server.domain.allocation import TokenRecord
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import Repaired
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.codec import Row

MAKE_ROOM_BELOW: Final = "UPDATE instances SET busy_blocks = total_blocks WHERE fleet = ? AND instance = ?"
MAKE_ROOM_ABOVE: Final = "UPDATE instances SET busy_blocks = 0 WHERE fleet = ? AND instance = ?"
FREE_BLOCK: Final = "DELETE FROM held_blocks WHERE fleet = ? AND instance = ? AND block = ? AND allocation = ?"
HOLD_BLOCK: Final = "INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES (?, ?, ?, ?)"
COUNT_HELD: Final = """
UPDATE instances SET busy_blocks =
  (SELECT count(*) FROM held_blocks h WHERE h.fleet = instances.fleet AND h.instance = instances.instance),
exclusive_to =
  (SELECT min(a.allocation) FROM held_blocks h
    JOIN allocations a ON a.fleet = h.fleet AND a.live = h.live AND a.allocation = h.allocation
    WHERE h.fleet = instances.fleet AND h.instance = instances.instance
      AND replace(a.exclusive, '"' || instances.instance || '"', '') <> a.exclusive)
WHERE fleet = ? AND instance = ?"""
FORGET_TOKEN: Final = "DELETE FROM tokens WHERE fleet = ? AND caller = ? AND token = ?"
RECORD_TOKEN: Final = """
INSERT INTO tokens (fleet, caller, token, allocation, fingerprint, revision, time_us) VALUES (?, ?, ?, ?, ?, ?, ?)"""

_COUNTED: Final = (CorrectionKind.BLOCK_FREED, CorrectionKind.BLOCK_HELD, CorrectionKind.COUNTER_SET)

Run = Callable[[str, Row], int]
"""Executes a statement; answers how many rows it changed."""


def apply_corrections(run: Run, fleet: str, event: Repaired, tokens: Sequence[TokenRecord]) -> None:
    """Carries out an event's corrections, apart from the journal and the fleet's revision.

    `tokens` are the records of its TOKEN_RECORDED. Raises InvariantBroken if a row is not as the plan saw it.
    """
    for correction in event.corrections:
        _apply_correction(run, fleet, correction)
    for instance in {each.instance: None for each in event.corrections if each.kind in _COUNTED}:
        run(COUNT_HELD, (fleet, instance))
    for record in tokens:
        run(FORGET_TOKEN, (fleet, record.caller, record.token))
        run(RECORD_TOKEN, (fleet, *record, event.time_us))


def _apply_correction(run: Run, fleet: str, correction: Correction) -> None:
    instance, block, allocation = correction.instance, correction.block, correction.allocation
    if correction.kind is CorrectionKind.BLOCK_FREED:
        run(MAKE_ROOM_BELOW, (fleet, instance))
        if run(FREE_BLOCK, (fleet, instance, block, allocation)) != 1:
            raise InvariantBroken(f"fleet {fleet}: block {block} of {instance} is not held by allocation {allocation}")
    elif correction.kind is CorrectionKind.BLOCK_HELD:
        run(MAKE_ROOM_ABOVE, (fleet, instance))
        run(HOLD_BLOCK, (fleet, instance, block, allocation))
