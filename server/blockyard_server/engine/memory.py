"""The fleets in memory, each exact while the writer holds the fleet's lock."""

from dataclasses import replace
from typing import Final

from blockyard_server.domain.events import Repaired, Restored
from blockyard_server.domain.fleet import FleetState
from blockyard_server.engine.store_protocol import FleetHead, InvariantBroken, Transaction

MAX_CATCH_UP: Final = 10_000
"""A fleet that is further behind its journal than this many events is loaded again."""


class FleetMemory:
    """Fleets by name: loaded on first use, caught up from the journal if another server wrote.

    Forgotten after a transaction that did not commit, because memory may have seen what the database has not.
    """

    def __init__(self) -> None:
        self._states: dict[str, FleetState] = {}

    def current(self, fleet: str, tx: Transaction) -> FleetState:
        """The fleet as it is at `tx.head`."""
        if tx.head is None:
            return FleetState(fleet, tx.first_revision())
        state = self._states.get(fleet)
        if state is None or not _catch_up(state, tx.head, tx):
            state = _load(fleet, tx.head, tx)
        return state

    def keep(self, state: FleetState) -> None:
        """Remembers a fleet after its transaction has committed; one that is not there is not kept."""
        if not state.exists:
            self._states.pop(state.fleet, None)
        else:
            self._states[state.fleet] = state

    def with_leases(self) -> set[str]:
        """The fleets in memory that may have live leases. From any thread."""
        return {fleet for fleet, state in list(self._states.items()) if state.next_expire_time_us is not None}

    def all(self) -> list[FleetState]:
        """The fleets in memory. From any thread; they go on to change meanwhile."""
        return list(self._states.values())

    def forget(self, fleet: str) -> None:
        """The fleet is loaded again next time."""
        self._states.pop(fleet, None)


def _load(fleet: str, head: FleetHead, tx: Transaction) -> FleetState:
    # Memory serves a fleet only while it is not halted, whatever its row says at the moment.
    record = None if head.record is None else replace(head.record, halted=False)
    state = FleetState(fleet, head.revision, head.next_order, record)
    state.latest_time_us = tx.latest_time_us()
    if record is not None:
        for row in tx.load_instances():
            if row.busy.bit_count() != row.record.busy_blocks or row.busy >> row.record.fields.total_blocks:
                name = row.record.instance
                raise InvariantBroken(f"fleet {fleet}: the counter of instance {name} is not what its held blocks are")
            state.restore(row.record, row.busy)
        state.index.prepare()
        state.next_expire_time_us = tx.next_expire_time_us(after_us=-1)
    return state


def _catch_up(state: FleetState, head: FleetHead, tx: Transaction) -> bool:
    if state.revision == head.revision:
        return True
    if not 0 < head.revision - state.revision <= MAX_CATCH_UP:
        return False
    events = tx.events_after(state.revision, MAX_CATCH_UP)
    if not events or events[0].revision != state.revision + 1:
        return False  # the journal has been compacted beyond what this server has seen
    for event in events:
        if isinstance(event, Repaired | Restored):
            return False
        state.apply(event)
    return state.revision == head.revision
