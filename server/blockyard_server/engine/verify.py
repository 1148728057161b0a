"""Verify: gathers a fleet's records at one revision and has the core compare them."""

from blockyard_server.domain.answers import VerifyReport
from blockyard_server.domain.audit import (
    Findings,
    check_allocations,
    check_counters,
    check_journal,
    check_memory,
    check_tokens,
    gather_held,
)
from blockyard_server.domain.fleet import fleet_not_found
from blockyard_server.engine.transactor import PinnedFleet


def audit(fleet: str, pinned: PinnedFleet) -> VerifyReport:
    """Compares everything with everything. Synchronous and slow: for a worker thread. Closes the evidence.

    Raises FleetNotFound.
    """
    evidence = pinned.evidence
    try:
        if not evidence.exists:
            raise fleet_not_found(fleet)
        findings = Findings()
        instances = {instance: (total, busy) for instance, total, busy in evidence.instances()}
        held = gather_held(evidence.held_blocks())
        check_counters(instances, held, findings)
        allocations = check_allocations(evidence.live_allocations(), held, findings)
        check_tokens(evidence.tokens_of_live_allocations(), findings)
        if pinned.memory_revision == evidence.revision:
            check_memory(pinned.memory, instances, held, findings)
        events = check_journal(evidence.events(), evidence.revision, instances, held, findings)
        return VerifyReport(
            revision=evidence.revision,
            discrepancies=tuple(findings.discrepancies),
            truncated=findings.truncated,
            instances_checked=len(instances),
            held_blocks_checked=sum(map(len, held.values())),
            allocations_checked=allocations,
            events_replayed=events,
        )
    finally:
        evidence.close()
