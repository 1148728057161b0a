"""What continuous verification reads: a bounded slice of a fleet, out of the snapshot of Verify's evidence."""

from collections.abc import Iterator
from typing import Any, Final

from typing_extensions import override

from blockyard_server.domain.allocation import Allocation
from blockyard_server.engine.store_protocol import Evidence
from blockyard_server.store.codec import ALLOCATION_COLUMNS, Row, decode_allocation

# The columns' names are constants of this package, and nothing else is put into a text; values are always parameters.
# The texts are the same for every database, but for the placeholder. A test asks SQLite's planner about each.

INSTANCES_AFTER: Final = """
SELECT instance, total_blocks, busy_blocks FROM instances WHERE fleet = ? AND instance > ? ORDER BY instance LIMIT ?"""
HELD_OF_INSTANCES: Final = """
SELECT instance, block, allocation FROM held_blocks WHERE fleet = ? AND instance >= ? AND instance <= ?"""
# The numbers come first, by the index of live allocations: a range of the table may have many ended ones in it.
TOKENS_AFTER: Final = """
SELECT a.allocation, t.allocation FROM
  (SELECT fleet, allocation FROM allocations
    WHERE fleet = ? AND live = 1 AND allocation > ? ORDER BY allocation LIMIT ?) k
  CROSS JOIN allocations a LEFT JOIN tokens t ON t.fleet = a.fleet AND t.caller = a.caller AND t.token = a.token
WHERE a.fleet = k.fleet AND a.allocation = k.allocation"""
LIVE_BETWEEN: Final = f"""
SELECT {", ".join(f"a.{name}" for name in ALLOCATION_COLUMNS)} FROM
  (SELECT fleet, allocation FROM allocations WHERE fleet = ? AND live = 1 AND allocation > ? AND allocation <= ?) k
  CROSS JOIN allocations a
WHERE a.fleet = k.fleet AND a.allocation = k.allocation ORDER BY k.allocation"""  # noqa: S608 - see above
HELD_OF_ALLOCATIONS: Final = """
SELECT instance, block, allocation FROM held_blocks
WHERE fleet = ? AND live = 1 AND allocation > ? AND allocation <= ?"""


class Slices(Evidence):
    """The part of `Evidence` that reads slices; `_select` is the database's."""

    _fleet: str

    def _select(self, statement: str, *parameters: Any) -> Iterator[Row]:
        """The rows of a statement, streamed; the fleet is its first parameter. Raises StoreFailed."""
        raise NotImplementedError

    @override
    def instances_after(self, instance: str, limit: int) -> list[tuple[str, int, int]]:
        return [(row[0], row[1], row[2]) for row in self._select(INSTANCES_AFTER, instance, limit)]

    @override
    def held_of_instances(self, first: str, last: str) -> Iterator[tuple[str, int, int]]:
        return ((row[0], row[1], row[2]) for row in self._select(HELD_OF_INSTANCES, first, last))

    @override
    def tokens_after(self, allocation: int, limit: int) -> list[tuple[int, int | None]]:
        return sorted((row[0], row[1]) for row in self._select(TOKENS_AFTER, allocation, limit))

    @override
    def live_between(self, after: int, upto: int) -> Iterator[Allocation]:
        return map(decode_allocation, self._select(LIVE_BETWEEN, after, upto))

    @override
    def held_of_allocations(self, after: int, upto: int) -> Iterator[tuple[str, int, int]]:
        return ((row[0], row[1], row[2]) for row in self._select(HELD_OF_ALLOCATIONS, after, upto))
