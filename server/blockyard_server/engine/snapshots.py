"""Takes a fleet's records and this server's memory of it at one revision, for those who compare them."""

from typing import Final

from blockyard_server.domain.audit import Memory
from blockyard_server.domain.fleet import FleetState, Inconsistent
from blockyard_server.domain.formats import Formats
from blockyard_server.engine.failures import failure_of_store, format_too_new
from blockyard_server.engine.halts import Halts
from blockyard_server.engine.store_protocol import InvariantBroken, Store, StoreFailed
from blockyard_server.engine.unit_of_work import CANNOT_BE_WRITTEN, UnitOfWork
from blockyard_server.engine.verify_snapshot import VerifySnapshot

_NO_MEMORY: Final = -1
"""No fleet is ever at this revision."""


class Snapshots:
    """Called in the writer thread of the fleet, between two batches."""

    def __init__(self, store: Store, unit: UnitOfWork, halts: Halts, formats: Formats) -> None:
        self._store = store
        self._unit = unit
        self._halts = halts
        self._formats = formats

    def of_fleet(self, fleet: str) -> VerifySnapshot:
        """All of a fleet, also of a halted one.

        If the fleet cannot be brought into memory, it is halted, and the snapshot says why. Raises FleetFormatTooNew,
        StoreUnavailable.
        """
        known_as_halted = fleet in self._halts.unrecorded
        try:
            with self._store.transaction(fleet) as tx:
                if tx.head is not None and not self._formats.knows(tx.head.format):
                    raise format_too_new(fleet, tx.head.format, self._formats.newest)
                known_as_halted |= tx.head is not None and tx.head.halted
                state = self._unit.memory.current(fleet, tx)
            self._unit.memory.keep(state)
            evidence = self._store.open_evidence(fleet)
            return VerifySnapshot(evidence, state.revision, _memory_of(state), halted=known_as_halted)
        except (InvariantBroken, Inconsistent) as broken:
            if not known_as_halted:
                self._unit.halt(fleet, str(broken))
            return VerifySnapshot(self._store.open_evidence(fleet), _NO_MEMORY, {}, str(broken), halted=True)
        except StoreFailed as failure:
            self._unit.memory.forget(fleet)
            raise failure_of_store(failure, CANNOT_BE_WRITTEN) from failure

    def of_slice(self, fleet: str, after_instance: str, limit: int) -> VerifySnapshot | None:
        """As `of_fleet`, but with the memory of the next instances by name only, `limit` at most.

        None if the fleet is not there, is halted (or is by this), or is of a format that this server does not know.
        Raises StoreUnavailable.
        """
        if self._halts.is_unrecorded(fleet):
            return None
        try:
            with self._store.transaction(fleet) as tx:
                if tx.head is None or tx.head.record is None or tx.head.halted:
                    return None
                if not self._formats.knows(tx.head.format):
                    return None
                state = self._unit.memory.current(fleet, tx)
            self._unit.memory.keep(state)
            evidence = self._store.open_evidence(fleet)
            try:
                names = [name for name, _, _ in evidence.instances_after(after_instance, limit)]
            except BaseException:
                evidence.close()
                raise
            found = (instance for name in names if (instance := state.index.by_name.get(name)) is not None)
            return VerifySnapshot(evidence, state.revision, {i.name: (i.total_blocks, i.busy) for i in found})
        except (InvariantBroken, Inconsistent) as broken:
            self._unit.halt(fleet, str(broken))
            return None
        except StoreFailed as failure:
            self._unit.memory.forget(fleet)
            raise failure_of_store(failure, CANNOT_BE_WRITTEN) from failure


def _memory_of(state: FleetState) -> Memory:
    return {i.name: (i.total_blocks, i.busy) for i in state.index.by_order.values()}
