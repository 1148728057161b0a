"""Repair: gathers a fleet's records at one revision, has the core plan, and has the store carry it out at that one.

`plan` is slow and holds nothing up: it reads a snapshot, in a worker thread. `apply` and `resume` are short, and run
in the fleet's writer thread. A fleet that has changed between the two is planned for again.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from blockyard_server.domain.actor import Actor
from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.answers import Check, Discrepancy, RepairReport, VerifyReport
from blockyard_server.domain.audit import Findings, Memory, Replay, gather_held
from blockyard_server.domain.corrections import CorrectionKind
from blockyard_server.domain.events import Event, Granted
from blockyard_server.domain.fleet import fleet_not_found
from blockyard_server.domain.repair import FleetRecords, Plan, plan_repair
from blockyard_server.engine.failures import InvariantViolated, failure_of_store
from blockyard_server.engine.store_protocol import Evidence, InvariantBroken, StoreFailed, Transaction
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import readable
from blockyard_server.engine.verify_snapshot import VerifySnapshot

UNKNOWN_REQUEST = b""
"""The fingerprint of a token whose grant the journal no longer has: no request is equal to it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gathered:
    """A fleet's records, and what is needed to record tokens again: the grants' fingerprints, by allocation."""

    records: FleetRecords
    fingerprints: dict[int, bytes]

    def token_of(self, allocation: Allocation) -> TokenRecord:
        """The record of the token that a live allocation was granted to."""
        number = allocation.allocation
        fingerprint = self.fingerprints.get(number, UNKNOWN_REQUEST)
        return TokenRecord(allocation.caller, allocation.token, number, fingerprint, number)


def gather(evidence: Evidence, memory: Memory | None) -> Gathered:
    """Reads all records. Takes time and space in proportion to the fleet, and time to its journal."""
    findings = Findings()
    live = list(readable(evidence.live_allocations(), Check.HELD_BLOCKS, findings))
    tokens = dict(evidence.tokens_of_live_allocations())
    astray = {allocation for allocation, recorded in tokens.items() if recorded != allocation}
    fingerprints: dict[int, bytes] = {}
    replay = Replay(evidence.compacted_revision)
    for event in _noting_grants(readable(evidence.events(), Check.JOURNAL, findings), astray, fingerprints):
        replay.apply(event)
    records = FleetRecords(
        revision=evidence.revision,
        instances={instance: (total, busy) for instance, total, busy in evidence.instances()},
        held=gather_held(evidence.held_blocks()),
        live=live,
        unreadable=frozenset(tokens.keys() - {allocation.allocation for allocation in live}),
        tokens=tokens,
        exclusive=dict(evidence.exclusive_instances()),
        replay=replay,
        memory=memory,
        findings=findings,
    )
    return Gathered(records, fingerprints)


def _noting_grants(events: Iterator[Event], wanted: set[int], fingerprints: dict[int, bytes]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Granted) and event.revision in wanted:
            fingerprints[event.revision] = event.fingerprint
        yield event


@dataclass(frozen=True, slots=True)
class Planned:
    """What would make a fleet's records agree at a revision, and the token records that it needs."""

    revision: int
    plan: Plan
    tokens: tuple[TokenRecord, ...]


def plan(fleet: str, snapshot: VerifySnapshot) -> Planned:
    """What a repair would do. Slow: for a worker thread. Closes the evidence. Raises FleetNotFound."""
    evidence = snapshot.evidence
    try:
        if not evidence.exists:
            raise fleet_not_found(fleet)
        gathered = gather(evidence, snapshot.memory if snapshot.memory_revision == evidence.revision else None)
    finally:
        evidence.close()
    planned = plan_repair(gathered.records)
    if snapshot.unloadable is not None and not planned.corrections:
        unloadable = Discrepancy(Check.MEMORY, "a fleet that can be loaded", snapshot.unloadable)
        planned = replace(planned, unrepaired=(*planned.unrepaired, unloadable))
    recorded = {c.allocation for c in planned.corrections if c.kind is CorrectionKind.TOKEN_RECORDED}
    tokens = tuple(gathered.token_of(a) for a in gathered.records.live if a.allocation in recorded)
    return Planned(evidence.revision, planned, tokens)


class Repairer:
    """Carries out repairs."""

    def __init__(self, transactor: Transactor) -> None:
        self._transactor = transactor

    def apply(self, fleet: str, planned: Planned, actor: Actor | None = None) -> bool:
        """Carries a plan out for this actor, in one transaction; False if the fleet is not at its revision any more.

        Raises StoreUnavailable, and InvariantViolated if the database refuses it.
        """
        try:
            corrections, tokens = planned.plan.corrections, planned.tokens
            done = self._transactor.repair(fleet, planned.revision, corrections, tokens, actor)
        except InvariantBroken as broken:
            self._transactor.halt(fleet, str(broken))
            message = f"fleet {fleet} cannot be repaired; keep a copy of the data: the server's log says why"
            raise InvariantViolated(message, fleet=f"fleets/{fleet}") from broken
        except StoreFailed as failure:
            self._transactor.was_repaired(fleet)  # perhaps it was
            raise failure_of_store(failure, "the database cannot be reached or written; repair again") from failure
        if done:
            _log.warning("fleet %s: %d corrections were made: %s", fleet, len(corrections), _summary(planned.plan))
            self._transactor.was_repaired(fleet)
        return done

    def resume(self, fleet: str, revision: int) -> bool:
        """Serves a fleet again in which Verify has just found nothing, at this revision. Raises EngineFailure.

        False if it is not at this revision any more.
        """

        def resume(tx: Transaction) -> tuple[bool, bool]:
            head = tx.head
            if head is None or not head.halted:
                return True, False
            if head.revision != revision:
                return False, False
            tx.set_halted(False)
            return True, True

        done, changed = self._transactor.in_transaction(
            fleet, lambda attempt: resume(attempt.tx), extend_leases=False, even_if_halted=True
        )
        if done:
            self._transactor.resume(fleet)
        if changed:
            _log.warning("fleet %s: its records agree, and it is served again", fleet)
        return done


def dry_run_report(planned: Planned, *, halted: bool) -> RepairReport:
    """What a repair would do."""
    wanted = planned.plan
    return RepairReport(
        revision=planned.revision,
        applied=False,
        corrections=wanted.corrections,
        unrepaired=wanted.unrepaired,
        truncated=wanted.truncated,
        halted=halted,
    )


def report_of(plan: Plan, after: VerifyReport) -> RepairReport:
    """What a repair did, and what Verify said afterwards."""
    left = plan.unrepaired if plan.truncated else after.discrepancies
    return RepairReport(
        revision=after.revision,
        applied=bool(plan.corrections),
        corrections=plan.corrections,
        unrepaired=left,
        truncated=plan.truncated or after.truncated,
        halted=not after.clean,
    )


def _summary(plan: Plan) -> str:
    kinds = [correction.kind.value for correction in plan.corrections]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
