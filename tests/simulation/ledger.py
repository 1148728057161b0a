"""What is checked at every commit: answers against events, rows against the journal, clients' work against the rows."""

from collections.abc import Sequence

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.events import Event, LeasesExtended
from blockyard_server.engine import batch
from tests.memory.rows import Rows
from tests.simulation.answers import Replay
from tests.simulation.books import FleetRecords
from tests.simulation.call import Call
from tests.simulation.holds import Holds
from tests.simulation.kernel import Violation


class Ledger:
    """One fleet's."""

    def __init__(self) -> None:
        self.books = FleetRecords()
        self.holds = Holds()

    def follow(self, call: Call, events: Sequence[Event], rows: Rows, touched: dict[int, Allocation]) -> None:
        """A transaction is about to be committed: `rows` are as they will be."""
        if not events and call.now_us is None:
            return
        books = self.books
        rest = list(events)
        extended = bool(rest) and isinstance(rest[0], LeasesExtended)
        if extended:
            books.apply(rest.pop(0))
        if call.now_us is not None:
            replay = Replay(books, rest, call.now_us)
            more_due = replay.sweep(batch.MAX_EXPIRED_AT_ONCE)
            if call.outcomes is not None:
                replay.answer(call.requests, call.outcomes, more_due=more_due)
            replay.end()
        elif rest:
            raise Violation(f"{call} has no reason for {rest}")
        for number in books.allocations if extended else touched:
            row = rows.allocations.get(number)
            if row is not None and row != books.allocations[number]:
                raise Violation(f"the row {row} has to be {books.allocations[number]}")
        if events:
            if rows.held != books.held:
                raise Violation(f"the rows of held blocks are {rows.held}, and the journal says {books.held}")
            self.holds.check(rows.held)
