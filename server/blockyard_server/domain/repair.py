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
class Books:
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
    def mends_all(self) -> bool:
        """Once it is carried out, Verify has nothing to report."""
        return not self.unrepaired and not self.truncated


def plan_repair(books: Books) -> Plan:
    """The plan that makes the books agree. They agree already if it is empty."""
    corrections: list[Correction] = []
    if books.replay.revision <= books.revision:  # else there is no place in the journal for what a repair changes
        corrections += _mend_held(books)
        corrections += _mend_tokens(books)
        corrections += _mend_counters(books)
        corrections += _mend_journal(books, corrections)
        corrections += _reload_memory(books)
    if corrections:
        books.revision += 1
        books.replay.revision = books.revision
    left = _compare(books)
    return Plan(
        tuple(corrections[: limits.MAX_CORRECTIONS]),
        tuple(left.discrepancies),
        left.truncated or len(corrections) > limits.MAX_CORRECTIONS,
    )


def _compare(books: Books) -> Findings:
    """What Verify says of the books as they are now."""
    findings = books.findings
    granted: dict[str, int] = {}
    check_counters(books.instances, books.held, findings)
    check_allocations(exclusive_of(books.live, granted), books.held, findings)
    check_exclusive(granted, books.exclusive, books.held, findings)
    check_tokens(books.tokens.items(), findings)
    compare_replay(books.replay, books.revision, books.instances, books.held, findings)
    return findings


def _mend_held(books: Books) -> Iterator[Correction]:
    """A block is held by the one live allocation that has it, and otherwise by nobody."""
    claims, contested = _claims(books.live)
    for instance in sorted(books.held.keys() | claims.keys()):
        rows, claimed = books.held.get(instance, {}), claims.get(instance, {})
        if rows == claimed:
            continue
        total = books.instances.get(instance, (0, 0))[0]
        mended = dict(rows)
        corrections: list[Correction] = []
        for block in sorted(rows.keys() | claimed.keys()):
            holder, claimant = rows.get(block), claimed.get(block)
            if holder == claimant or (instance, block) in contested or holder in books.unreadable:
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
        if len(mended) <= total or instance not in books.instances:
            books.held[instance] = mended
            yield from corrections
        if not mended:
            books.held.pop(instance, None)


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


def _mend_tokens(books: Books) -> Iterator[Correction]:
    """Each live allocation's token names it, unless another live one has the same token."""
    wrong = [a for a in books.live if books.tokens.get(a.allocation) != a.allocation]
    if wrong:
        bearers = Counter((a.caller, a.token) for a in books.live)
        for allocation in wrong:
            if bearers[allocation.caller, allocation.token] == 1:
                books.tokens[allocation.allocation] = allocation.allocation
                yield Correction(CorrectionKind.TOKEN_RECORDED, allocation=allocation.allocation)


def _mend_counters(books: Books) -> Iterator[Correction]:
    """A counter is the number of the held blocks, unless the instance has fewer: then it is the rows that are wrong."""
    claims, _ = _claims(books.live)
    granted = {name: owner for name, owner in _exclusive(books.live).items() if set(claims[name].values()) == {owner}}
    differing = [name for name in differing_exclusive(granted, books.exclusive) if name in books.instances]
    wrong = set(differing)
    for instance, (total, busy) in books.instances.items():
        rows = len(books.held.get(instance, {}))
        if rows <= total and (busy != rows or instance in wrong):
            books.instances[instance] = (total, rows)
            yield Correction(CorrectionKind.COUNTER_SET, instance, before=busy, after=rows)
            wrong.discard(instance)
    # Whatever is mended of an instance, the database says again in the end who holds it exclusively.
    for instance in differing:
        if instance not in wrong:
            books.exclusive.pop(instance, None)
            if instance in granted:
                books.exclusive[instance] = granted[instance]


def _mend_journal(books: Books, so_far: list[Correction]) -> list[Correction]:
    """From the repair's own event on, the journal's replay gives what the records say."""
    replay, corrections = books.replay, []
    places = len(replay.findings.discrepancies) + (replay.revision != books.revision)
    if places:
        corrections.append(Correction(CorrectionKind.JOURNAL_SETTLED, before=places))
    for correction in (*so_far, *corrections):
        replay.correct(correction)
    for instance, replayed, total in list(replay.differing_shapes(books.instances)):
        corrections.append(Correction(CorrectionKind.SHAPE_RECONCILED, instance, before=replayed, after=total))
        replay.correct(corrections[-1])
    claims, contested = _claims(books.live)
    for instance, block, _, holder in list(replay.differing_blocks(books.held)):
        # Where the records themselves do not agree, the journal is evidence, and is left alone.
        if (instance, block) not in contested and claims.get(instance, {}).get(block) == holder:
            corrections.append(Correction(CorrectionKind.JOURNAL_RECONCILED, instance, holder, block))
            replay.correct(corrections[-1])
    return corrections


def _reload_memory(books: Books) -> Iterator[Correction]:
    """What the server has otherwise in memory than the records will be."""
    if books.memory is not None:
        for instance in sorted(differing_memory(books.memory, books.instances, books.held)):
            yield Correction(CorrectionKind.MEMORY_RELOADED, instance)
