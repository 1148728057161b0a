"""Continuous verification: in the background a slice of each fleet at a time is compared, going round for ever.

A slice is some instances with their counters, held blocks and the server's memory of them, and some live allocations
with their blocks and tokens, all of them at one revision. What differs halts the fleet; nothing is mended. The journal
is not replayed and instances that only memory has are not looked for: that is Verify's.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from blockyard_server.domain import limits
from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Check
from blockyard_server.domain.audit import (
    Findings,
    check_allocations,
    check_counters,
    check_memory,
    check_tokens,
    gather_held,
)
from blockyard_server.domain.blocks import block_count
from blockyard_server.engine.background import run_isolated
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import EngineFailure, ShuttingDown
from blockyard_server.engine.ledger import LedgerWork
from blockyard_server.engine.store_protocol import Evidence, Store, StoreFailed, StoreStopped
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import readable
from blockyard_server.engine.verify_snapshot import VerifySnapshot
from blockyard_server.engine.writers import Writers

MAX_INSTANCES_AT_ONCE: Final = 500
"""Of one fleet in one step."""
MAX_ALLOCATIONS_AT_ONCE: Final = 500
"""The same."""
MAX_BLOCKS_AT_ONCE: Final = 65_536
"""A slice ends before it has more held blocks, but not before its first instance or allocation."""
MAX_FLEETS_AT_ONCE: Final = 100
"""How many fleets one round takes a step in; the others come next."""

_ABOVE_ALL: Final = 2**62
"""No allocation has such a number, not even a damaged one that the database would take for live."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditorSettings:
    """When the background verification works."""

    interval_s: float = 60.0
    """Between two rounds. 0: never."""


@dataclass(slots=True)
class Position:
    """How far one fleet's round has come: what is below was compared. It begins again after the last."""

    instance: str = ""
    allocation: int = 0


class Auditor:
    """Runs in the background until it is stopped; a round can also be asked for."""

    def __init__(
        self,
        store: Store,
        writers: Writers,
        transactor: Transactor,
        ledger: LedgerWork,
        counts: Counts,
        settings: AuditorSettings,
    ) -> None:
        self._store = store
        self._writers = writers
        self._transactor = transactor
        self._ledger = ledger
        self._counts = counts
        self._settings = settings
        self._positions: dict[str, Position] = {}
        self._last_fleet = ""
        self._stopping = asyncio.Event()
        self._in_step = False
        """A slice is being compared: only that closes its snapshot."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work in the background, unless it is turned off."""
        if self._settings.interval_s > 0:
            self._task = asyncio.create_task(self._run(), name="blockyard-auditor")

    async def stop(self) -> None:
        """Ends, after the step that is under way; `LedgerWork.end` cuts that short."""
        self._stopping.set()
        if self._task is not None:
            if not self._in_step:
                self._task.cancel()  # it may wait for a reader behind all others
            await asyncio.gather(self._task, return_exceptions=True)

    async def round(self) -> None:
        """Takes a step in each of the next fleets, one after the other. Raises ShuttingDown, StoreFailed."""
        halts = self._counts.halts
        async with self._store.reader() as reader:
            halted = await reader.halted_fleets(limits.MAX_FLEETS)
            fleets = await reader.fleets_to_audit(self._last_fleet, MAX_FLEETS_AT_ONCE)
        if halts == self._counts.halts:  # else this server knows of one that the snapshot may not have
            self._counts.halted_fleets = set(halted) | self._transactor.halts_to_record
        self._last_fleet = fleets[-1] if len(fleets) == MAX_FLEETS_AT_ONCE else ""
        for fleet in fleets:
            if self._stopping.is_set():
                return
            self._in_step = True
            try:
                await run_isolated("verified", fleet, self.step(fleet))
            finally:
                self._in_step = False

    async def step(self, fleet: str) -> None:
        """Compares the next slice of a fleet, and halts the fleet if anything differs. Raises EngineFailure."""
        position = self._positions.setdefault(fleet, Position())
        async with self._ledger.turn:
            self._ledger.expect_going_on()
            after = position.instance
            snapshot = await self._writers.of(fleet).run_exclusive(
                lambda: self._transactor.snapshot_slice(fleet, after, MAX_INSTANCES_AT_ONCE)
            )
            if snapshot is None:
                del self._positions[fleet]
                return
            findings = await self._ledger.read(snapshot, lambda snapshot: self._compare(snapshot, position))
            self._counts.audit_steps += 1
            if findings.discrepancies:
                await self._ledger.halt(fleet, tuple(findings.discrepancies))

    def _compare(self, snapshot: VerifySnapshot, position: Position) -> Findings:
        """In the worker thread. Moves the position on, and closes the evidence."""
        findings = Findings()
        try:
            self._counts.audited_instances += compare_instances(snapshot, position, findings)
            self._counts.audited_allocations += compare_allocations(snapshot.evidence, position, findings)
        finally:
            snapshot.evidence.close()
        return findings

    async def _run(self) -> None:
        while not await self._is_stopped_within(self._settings.interval_s):
            try:
                await self.round()
            except ShuttingDown:
                return
            except StoreStopped:
                _log.debug("the store has stopped, and has said why")
            except (EngineFailure, StoreFailed) as failure:
                _log.warning("the background verification will try again: %s", failure)
            except Exception:  # noqa: BLE001 - it must go on, whatever one round met
                _log.exception("the background verification failed unexpectedly and will try again")

    async def _is_stopped_within(self, wait_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        return self._stopping.is_set()


def compare_instances(snapshot: VerifySnapshot, position: Position, findings: Findings) -> int:
    """Compares the instances of the slice, and moves on. Answers how many there were."""
    evidence = snapshot.evidence
    rows = evidence.instances_after(position.instance, MAX_INSTANCES_AT_ONCE)
    taken = _within_blocks([max(busy, 0) for _, _, busy in rows])
    instances = {instance: (total, busy) for instance, total, busy in rows[:taken]}
    if instances:
        held = gather_held(evidence.held_of_instances(rows[0][0], rows[taken - 1][0]))
        check_counters(instances, {name: held[name] for name in held.keys() & instances.keys()}, findings)
        if snapshot.memory_revision == evidence.revision:
            memory = {name: snapshot.memory[name] for name in instances.keys() & snapshot.memory.keys()}
            check_memory(memory, instances, held, findings)
    whole = taken == len(rows) < MAX_INSTANCES_AT_ONCE
    position.instance = "" if whole else rows[taken - 1][0]
    return len(instances)


def compare_allocations(evidence: Evidence, position: Position, findings: Findings) -> int:
    """Compares the live allocations of the slice with the blocks that are held for them, and moves on."""
    after = position.allocation
    tokens = evidence.tokens_after(after, MAX_ALLOCATIONS_AT_ONCE)
    upto = tokens[-1][0] if len(tokens) == MAX_ALLOCATIONS_AT_ONCE else _ABOVE_ALL
    live: list[Allocation] = []
    blocks = 0
    for allocation in readable(evidence.live_between(after, upto), Check.HELD_BLOCKS, findings):
        blocks += block_count(allocation.placements)
        if live and blocks > MAX_BLOCKS_AT_ONCE:
            upto = live[-1].allocation
            break
        live.append(allocation)
    held = gather_held(evidence.held_of_allocations(after, upto))
    check_allocations(live, held, findings)
    check_tokens([each for each in tokens if each[0] <= upto], findings)
    position.allocation = 0 if upto == _ABOVE_ALL else upto
    return len(live)


def _within_blocks(busy: list[int]) -> int:
    """How many of them come first without exceeding the blocks of a slice; at least one, if there is one."""
    total = 0
    for number, blocks in enumerate(busy):
        total += blocks
        if number and total > MAX_BLOCKS_AT_ONCE:
            return number
    return len(busy)
