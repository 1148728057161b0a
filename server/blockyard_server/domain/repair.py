"""What would make a fleet's records agree again. Pure: out of the records comes a plan, and nothing is done.

What clients were told is the truth, and the records of live allocations are what says it: their blocks stay theirs.
Held blocks, counters, tokens and the journal's replay follow from them. Where two live allocations have one block,
where one has a block that its instance has not, and where a record cannot be read, no rule can know: that is left
as it is.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from blockyard_server.domain import limits
from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Discrepancy
from blockyard_server.domain.audit import (
    Findings,
    HeldBlocks,
    Memory,
    Replay,
    check_allocations,
    check_counters,
    check_exclusive,
    check_tokens,
    compare_replay,
    differing_exclusive,
    differing_memory,
    exclusive_of,
)
from blockyard_server.domain.corrections import Correction, CorrectionKind


@dataclass(slots=True)
class FleetRecords:
    """All records of a fleet at one revision. A plan uses them up: it carries out in them what it finds."""

    revision: int
    instances: dict[str, tuple[int, int]]
    """For each instance its total_blocks and its counter of busy blocks."""
    held: HeldBlocks
    live: list[Allocation]
    """The live allocations whose records can be read."""
    unreadable: frozenset[int]
    """The live allocations whose records cannot."""
    tokens: dict[int, int | None]
    """For each live allocation, which one its token's record names."""
    replay: Replay
    memory: Memory | None
    """The server's memory at this revision; None if it has none."""
    findings: Findings
    """What was found out when the records were gathered: those that cannot be read."""
    exclusive: dict[str, int] = field(default_factory=dict)
    """The instances that are held exclusively by their own records, and by which allocation."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change, in this order, and what is left to people. `truncated`: there is more of either."""

    corrections: tuple[Correction, ...]
    unrepaired: tuple[Discrepancy, ...]
    truncated: bool

    @property
    def is_complete(self) -> bool:
        """Once it is carried out, Verify has nothing to report."""
        return not self.unrepaired and not self.truncated


def plan_repair(records: FleetRecords) -> Plan:
    """The plan that makes the records agree. They agree already if it is empty."""
    corrections: list[Correction] = []
    if records.replay.revision <= records.revision:  # else there is no place in the journal for what a repair changes
        corrections += _plan_held_blocks(records)
        corrections += _plan_tokens(records)
        corrections += _plan_counters(records)
        corrections += _plan_journal(records, corrections)
        corrections += _plan_memory(records)
    if corrections:
        records.revision += 1
        records.replay.revision = records.revision
    left = _compare(records)
    return Plan(
        tuple(corrections[: limits.MAX_CORRECTIONS]),
        tuple(left.discrepancies),
        left.truncated or len(corrections) > limits.MAX_CORRECTIONS,
    )


def _compare(records: FleetRecords) -> Findings:
    """What Verify says of the records as they are now."""
    findings = records.findings
    granted: dict[str, int] = {}
    check_counters(records.instances, records.held, findings)
    check_allocations(exclusive_of(records.live, granted), records.held, findings)
    check_exclusive(granted, records.exclusive, records.held, findings)
    check_tokens(records.tokens.items(), findings)
    compare_replay(records.replay, records.revision, records.instances, records.held, findings)
    return findings


def _plan_held_blocks(records: FleetRecords) -> Iterator[Correction]:
    """A block is held by the one live allocation that has it, and otherwise by nobody."""
    claims, contested = _claims(records.live)
    for instance in sorted(records.held.keys() | claims.keys()):
        rows, claimed = records.held.get(instance, {}), claims.get(instance, {})
        if rows == claimed:
            continue
        total = records.instances.get(instance, (0, 0))[0]
        mended = dict(rows)
        corrections: list[Correction] = []
        for block in sorted(rows.keys() | claimed.keys()):
            holder, claimant = rows.get(block), claimed.get(block)
            if holder == claimant or (instance, block) in contested or holder in records.unreadable:
                continue
            if claimant is not None and block >= total:
                continue
            if holder is not None:
                del mended[block]
                corrections.append(Correction(CorrectionKind.BLOCK_FREED, instance, holder, block))
            if claimant is not None:
                mended[block] = claimant
                corrections.append(Correction(CorrectionKind.BLOCK_HELD, instance, claimant, block))
        # With more held than there are blocks, the instance's own record is wrong, and no counter could be right.
        if len(mended) <= total or instance not in records.instances:
            records.held[instance] = mended
            yield from corrections
        if not mended:
            records.held.pop(instance, None)


def _claims(live: list[Allocation]) -> tuple[HeldBlocks, set[tuple[str, int]]]:
    """Which live allocation has each block, and the blocks that more than one has."""
    claims: HeldBlocks = {}
    contested: set[tuple[str, int]] = set()
    for allocation in live:
        for instance, blocks in allocation.placements:
            claimed = claims.setdefault(instance, {})
            for block in blocks:
                if claimed.setdefault(block, allocation.allocation) != allocation.allocation:
                    contested.add((instance, block))
    exclusive = _exclusive(live)
    for instance, owner in exclusive.items():
        if set(claims[instance].values()) != {owner}:
            contested |= {(instance, block) for block in claims[instance]}
    return claims, contested


def _exclusive(live: list[Allocation]) -> dict[str, int]:
    """Which live allocation has which instance exclusively."""
    exclusive: dict[str, int] = {}
    for _ in exclusive_of(live, exclusive):
        pass
    return exclusive


def _plan_tokens(records: FleetRecords) -> Iterator[Correction]:
    """Each live allocation's token names it, unless another live one has the same token."""
    wrong = [a for a in records.live if records.tokens.get(a.allocation) != a.allocation]
    if wrong:
        bearers = Counter((a.caller, a.token) for a in records.live)
        for allocation in wrong:
            if bearers[allocation.caller, allocation.token] == 1:
                records.tokens[allocation.allocation] = allocation.allocation
                yield Correction(CorrectionKind.TOKEN_RECORDED, allocation=allocation.allocation)


def _plan_counters(records: FleetRecords) -> Iterator[Correction]:
    """A counter is the number of the held blocks, unless the instance has fewer: then it is the rows that are wrong."""
    claims, _ = _claims(records.live)
    granted = {name: owner for name, owner in _exclusive(records.live).items() if set(claims[name].values()) == {owner}}
    differing = [name for name in differing_exclusive(granted, records.exclusive) if name in records.instances]
    wrong = set(differing)
    for instance, (total, busy) in records.instances.items():
        rows = len(records.held.get(instance, {}))
        if rows <= total and (busy != rows or instance in wrong):
            records.instances[instance] = (total, rows)
            yield Correction(CorrectionKind.COUNTER_SET, instance, before=busy, after=rows)
            wrong.discard(instance)
    # Whatever is mended of an instance, the database says again in the end who holds it exclusively.
    for instance in differing:
        if instance not in wrong:
            records.exclusive.pop(instance, None)
            if instance in granted:
                records.exclusive[instance] = granted[instance]


def _plan_journal(records: FleetRecords, so_far: list[Correction]) -> list[Correction]:
    """From the repair's own event on, the journal's replay gives what the records say."""
    replay, corrections = records.replay, []
    places = len(replay.findings.discrepancies) + (replay.revision != records.revision)
    if places:
        corrections.append(Correction(CorrectionKind.JOURNAL_SETTLED, before=places))
    for correction in (*so_far, *corrections):
        replay.correct(correction)
    for instance, replayed, total in list(replay.differing_shapes(records.instances)):
        corrections.append(Correction(CorrectionKind.SHAPE_RECONCILED, instance, before=replayed, after=total))
        replay.correct(corrections[-1])
    claims, contested = _claims(records.live)
    for instance, block, _, holder in list(replay.differing_blocks(records.held)):
        # Where the records themselves do not agree, the journal is evidence, and is left alone.
        if (instance, block) not in contested and claims.get(instance, {}).get(block) == holder:
            corrections.append(Correction(CorrectionKind.JOURNAL_RECONCILED, instance, holder, block))
            replay.correct(corrections[-1])
    return corrections


def _plan_memory(records: FleetRecords) -> Iterator[Correction]:
    """What the server has otherwise in memory than the records will be."""
    if records.memory is not None:
        for instance in sorted(differing_memory(records.memory, records.instances, records.held)):
            yield Correction(CorrectionKind.MEMORY_RELOADED, instance)
