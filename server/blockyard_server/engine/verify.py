"""Verify: gathers a fleet's records at one revision and has the core compare them."""

from collections.abc import Iterator
from typing import TypeVar

from blockyard_server.domain.answers import Check, VerifyReport
from blockyard_server.domain.audit import (
    Findings,
    check_allocations,
    check_counters,
    check_exclusive,
    check_journal,
    check_memory,
    check_tokens,
    exclusive_of,
    gather_held,
)
from blockyard_server.domain.fleet import fleet_not_found
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.engine.verify_snapshot import VerifySnapshot

T = TypeVar("T")


def audit(fleet: str, snapshot: VerifySnapshot) -> VerifyReport:
    """Compares everything with everything. Synchronous and slow: for a worker thread. Closes the evidence.

    Raises FleetNotFound.
    """
    evidence = snapshot.evidence
    try:
        if not evidence.exists:
            raise fleet_not_found(fleet)
        findings = Findings()
        instances = {instance: (total, busy) for instance, total, busy in evidence.instances()}
        held = gather_held(evidence.held_blocks())
        check_counters(instances, held, findings)
        live = readable(evidence.live_allocations(), Check.HELD_BLOCKS, findings)
        exclusive: dict[str, int] = {}
        allocations = check_allocations(exclusive_of(live, exclusive), held, findings)
        check_exclusive(exclusive, dict(evidence.exclusive_instances()), held, findings)
        check_tokens(evidence.tokens_of_live_allocations(), findings)
        if snapshot.unloadable is not None:
            findings.add(Check.MEMORY, "a fleet that can be loaded", snapshot.unloadable)
        if snapshot.memory_revision == evidence.revision:
            check_memory(snapshot.memory, instances, held, findings)
        journal = readable(evidence.events(), Check.JOURNAL, findings)
        events = check_journal(
            journal, evidence.revision, instances, held, findings, compacted_revision=evidence.compacted_revision
        )
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


def readable(rows: Iterator[T], check: Check, findings: Findings) -> Iterator[T]:
    """The rows that can be read; each other one is a difference."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except InvariantBroken as broken:
            findings.add(check, "a row that can be read", str(broken))
        else:
            yield row
