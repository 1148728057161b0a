"""The rows of one fleet in the simulated database, changed in place by whoever has locked them, and taken back."""

from operator import attrgetter
from typing import Any, NoReturn

from blockyard_server.domain.events import Event
from blockyard_server.domain.retention import FleetAge, Retention, forgettable
from tests.memory.rows import Rows
from tests.simulation.kernel import Violation


class _Absent:
    """Where there was nothing."""


_ABSENT = _Absent()
_SINGLE = ("revision", "next_order", "record", "compacted_revision", "halted", "clock_offset_us", "age", "format")
"""What is no table."""
_read_single = attrgetter(*_SINGLE)


class SimulatedRows(Rows):
    """A change that the real database would refuse is a Violation: nobody here has broken a row before."""

    def __init__(self, fleet: str) -> None:
        super().__init__(fleet)
        self.committed_us: list[int] = []
        """The true time at which each revision was."""
        self.locked = False
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._before: tuple[Any, ...] = ()

    def refuse(self, why: str) -> NoReturn:
        """The engine wanted what must not be."""
        raise Violation(why)

    def begin(self) -> None:
        """Locks the fleet."""
        assert not self.locked, "two transactions at once on one fleet"
        self.locked = True
        self._undo.clear()
        self._before = _read_single(self)

    def commit(self, true_us: int) -> None:
        """Makes what was changed stay."""
        self.committed_us += [true_us] * (len(self.journal) - len(self.committed_us))
        self.locked = False

    def roll_back(self) -> None:
        """Takes back what was changed since `begin`."""
        for name, was in zip(_SINGLE, self._before, strict=True):
            setattr(self, name, was)
        del self.journal[self.revision :]
        for table, key, was in reversed(self._undo):
            if was is _ABSENT:
                del table[key]
            else:
                table[key] = was
        self.locked = False

    def put(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        """Inserts or changes a row."""
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = row

    def take(self, table: dict[Any, Any], key: Any) -> Any:
        """Deletes a row and answers it; None if it is not there."""
        row = table.get(key)
        if row is not None:
            self._undo.append((table, key, row))
            del table[key]
        return row

    def check_age(self, age: FleetAge, retention: Retention, true_us: int) -> None:
        """What an age makes old enough to go must truly be so old."""
        old = forgettable(age, retention)
        for upto, kept_us in ((old.ended, retention.ended_us), (old.events, retention.journal_us)):
            if upto and true_us - self.committed_us[upto - 1] < kept_us:
                past_us = true_us - self.committed_us[upto - 1]
                raise Violation(f"revision {upto} may be forgotten after {past_us} us, and is kept for {kept_us} us")

    def write(self, event: Event) -> None:
        """As of any rows. The time of a fleet never goes back."""
        if self.journal and event.time_us < self.journal[-1].time_us:
            raise Violation(f"{event} is before the event that it follows, at {self.journal[-1].time_us}")
        super().write(event)
