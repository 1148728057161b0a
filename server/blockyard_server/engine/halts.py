"""Which fleets are halted: an invariant of theirs does not hold, and their writes are stopped until a repair.

The fleet's row says so to every server. As long as that cannot be written, this server knows it alone.
"""

import logging

from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import violation_in
from blockyard_server.engine.store_protocol import FleetHead, InvariantBroken, Store, StoreFailed

_log = logging.getLogger(__name__)


class Halts:
    """The halts of this server. Used in the writer threads; each fleet in one of them."""

    def __init__(self, store: Store, counts: Counts) -> None:
        self._store = store
        self._counts = counts
        self._unrecorded: dict[str, str] = {}
        """Halted fleets whose row could not be made to say so yet, and why each is."""

    @property
    def unrecorded(self) -> set[str]:
        """Fleets that only this server knows to be halted."""
        return set(self._unrecorded)

    def halt(self, fleet: str, why: str) -> None:
        """Stops the fleet's writes, on every server and after every start, until it is repaired."""
        self._unrecorded[fleet] = why
        self._counts.note_halt(fleet)
        _log.critical("fleet %s: an invariant does not hold, its writes are stopped: %s", fleet, why)
        self._record(fleet)

    def resume(self, fleet: str) -> None:
        """Ends the halt that the fleet's row said and says no more."""
        self._unrecorded.pop(fleet, None)
        self._counts.halted_fleets.discard(fleet)

    def is_unrecorded(self, fleet: str) -> bool:
        """Whether this server alone knows that the fleet is halted; if so, it tries again to record it."""
        if fleet not in self._unrecorded:
            return False
        self._record(fleet)
        return True

    def check(self, fleet: str, head: FleetHead | None) -> None:
        """Refuses a fleet whose row says that it is halted. Raises InvariantViolated."""
        if head is not None and head.halted:
            self._counts.halted_fleets.add(fleet)
            raise violation_in(fleet)

    def _record(self, fleet: str) -> None:
        """Has the fleet's row say that it is halted."""
        try:
            with self._store.transaction(fleet) as tx:
                if tx.head is not None and tx.head.record is not None and not tx.head.halted:
                    tx.set_halted(True)
        except (StoreFailed, InvariantBroken) as failure:
            _log.error("fleet %s: that it is halted could not be recorded, only this server knows: %s", fleet, failure)
        else:
            del self._unrecorded[fleet]
