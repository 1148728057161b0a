"""Verify's comparisons: every record of a fleet against every other, at one revision. Pure; it changes nothing."""

from collections.abc import Iterable, Iterator

from blockyard_server.domain import limits
from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Check, Discrepancy
from blockyard_server.domain.blocks import Placements, to_mask
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)

HeldBlocks = dict[str, dict[int, int]]
"""For each instance: block number to allocation."""
Memory = dict[str, tuple[int, int]]
"""For each instance that the server has in memory: its blocks, and the set of those that are held."""


class Findings:
    """Collects discrepancies up to a limit."""

    def __init__(self) -> None:
        self.discrepancies: list[Discrepancy] = []
        self.truncated = False

    def add(
        self, check: Check, expected: str, actual: str, *, instance: str | None = None, allocation: int | None = None
    ) -> None:
        """One more difference; beyond the limit only the fact that there are more."""
        if len(self.discrepancies) >= limits.MAX_DISCREPANCIES:
            self.truncated = True
            return
        self.discrepancies.append(Discrepancy(check, expected, actual, instance, allocation))

    def extend(self, others: "Findings") -> None:
        """What others found, too."""
        room = limits.MAX_DISCREPANCIES - len(self.discrepancies)
        self.truncated |= others.truncated or len(others.discrepancies) > room
        self.discrepancies += others.discrepancies[:room]


def gather_held(rows: Iterable[tuple[str, int, int]]) -> HeldBlocks:
    """The rows of held blocks, by instance."""
    held: HeldBlocks = {}
    for instance, block, allocation in rows:
        held.setdefault(instance, {})[block] = allocation
    return held


def check_counters(instances: dict[str, tuple[int, int]], held: HeldBlocks, findings: Findings) -> None:
    """Each instance's (total_blocks, busy_blocks) against its rows of held blocks."""
    for instance, (total, busy) in instances.items():
        rows = held.get(instance, {})
        if busy != len(rows):
            findings.add(Check.COUNTER, f"busy_blocks = {len(rows)}", f"busy_blocks = {busy}", instance=instance)
        for block, allocation in rows.items():
            if block >= total:
                message = f"block {block} is held"
                findings.add(
                    Check.HELD_BLOCKS, f"blocks 0..{total - 1}", message, instance=instance, allocation=allocation
                )
    for instance in held.keys() - instances.keys():
        findings.add(
            Check.HELD_BLOCKS, "no held blocks: no such instance", f"{len(held[instance])} held", instance=instance
        )


def exclusive_of(live: Iterable[Allocation], exclusive: dict[str, int]) -> Iterator[Allocation]:
    """The live allocations, while it is noted in `exclusive` which of them has which instance exclusively."""
    for allocation in live:
        for instance, _ in allocation.placements:
            if instance in allocation.exclusive:
                exclusive[instance] = allocation.allocation
        yield allocation


def differing_exclusive(granted: dict[str, int], recorded: dict[str, int]) -> Iterator[str]:
    """The instances whose own record says otherwise than the allocations who holds them exclusively."""
    return (name for name in sorted(granted.keys() | recorded.keys()) if granted.get(name) != recorded.get(name))


def check_exclusive(granted: dict[str, int], recorded: dict[str, int], held: HeldBlocks, findings: Findings) -> None:
    """Who holds instances exclusively, by the allocations and by the instances; and that nobody else is there."""
    for instance in differing_exclusive(granted, recorded):
        expected = f"held exclusively by {_one(granted.get(instance))}"
        found = f"held exclusively by {_one(recorded.get(instance))}"
        findings.add(Check.HELD_BLOCKS, expected, found, instance=instance, allocation=granted.get(instance))
    for instance, owner in granted.items():
        others = set(held.get(instance, {}).values()) - {owner}
        if others:
            found = f"blocks of it held by allocation {min(others)}"
            findings.add(Check.HELD_BLOCKS, "held exclusively", found, instance=instance, allocation=owner)


def check_allocations(live: Iterable[Allocation], held: HeldBlocks, findings: Findings) -> int:
    """The live allocations against the held blocks, both ways. Answers how many allocations there were."""
    matched = 0
    count = 0
    owners: set[tuple[str, int]] = set()
    for allocation in live:
        count += 1
        for instance, block in _each(allocation.placements):
            actual = held.get(instance, {}).get(block)
            if actual == allocation.allocation:
                matched += 1
                owners.add((instance, block))
            else:
                expected = f"block {block} held by it"
                found = "block idle" if actual is None else f"block held by allocation {actual}"
                findings.add(Check.HELD_BLOCKS, expected, found, instance=instance, allocation=allocation.allocation)
    if matched != sum(map(len, held.values())):
        for instance, block, holder in _rows(held):
            if (instance, block) not in owners:
                expected = f"block {block} idle: no live allocation has it"
                findings.add(Check.HELD_BLOCKS, expected, "block held", instance=instance, allocation=holder)
    return count


def check_tokens(rows: Iterable[tuple[int, int | None]], findings: Findings) -> None:
    """Each live allocation against the record of its token."""
    for allocation, recorded in rows:
        if recorded != allocation:
            found = "no record" if recorded is None else f"a record of allocation {recorded}"
            findings.add(Check.TOKEN, "its token's record names it", found, allocation=allocation)


def check_memory(memory: Memory, instances: dict[str, tuple[int, int]], held: HeldBlocks, findings: Findings) -> None:
    """The server's memory against the rows."""
    for instance in differing_memory(memory, instances, held):
        if instance not in memory:
            findings.add(Check.MEMORY, "known to the server", "unknown", instance=instance)
        elif instance not in instances:
            findings.add(Check.MEMORY, "unknown to the server", "known", instance=instance)
        else:
            expected = f"{instances[instance][0]} blocks, held: {_numbers(to_mask(tuple(held.get(instance, {}))))}"
            actual = f"{memory[instance][0]} blocks, held: {_numbers(memory[instance][1])}"
            findings.add(Check.MEMORY, expected, actual, instance=instance)


def differing_memory(memory: Memory, instances: dict[str, tuple[int, int]], held: HeldBlocks) -> Iterator[str]:
    """The instances that the server's memory has otherwise than the rows, or has alone, or has not."""
    for instance in memory.keys() | instances.keys():
        rows = to_mask(tuple(held.get(instance, {})))
        if instance not in instances or memory.get(instance) != (instances[instance][0], rows):
            yield instance


def check_journal(
    events: Iterator[Event],
    revision: int,
    instances: dict[str, tuple[int, int]],
    held: HeldBlocks,
    findings: Findings,
    *,
    compacted_revision: int = 0,
) -> int:
    """The replay of the journal, kept above `compacted_revision`, against the held blocks and the instances.

    Answers how many events there were.
    """
    replay = Replay(compacted_revision)
    for event in events:
        replay.apply(event)
    compare_replay(replay, revision, instances, held, findings)
    return replay.count


def compare_replay(
    replay: "Replay", revision: int, instances: dict[str, tuple[int, int]], held: HeldBlocks, findings: Findings
) -> None:
    """A journal that has been replayed against the held blocks and the instances, and against itself."""
    findings.extend(replay.findings)
    if replay.revision != revision:
        findings.add(Check.JOURNAL, f"events up to revision {revision}", f"up to {replay.revision}")
    for instance, replayed, total in replay.differing_shapes(instances):
        expected, found = f"{replayed or 'no such instance'}", f"{total or 'no such instance'}"
        findings.add(Check.JOURNAL, f"{expected} blocks", f"{found} blocks", instance=instance)
    for instance, block, replayed_holder, holder in replay.differing_blocks(held):
        findings.add(
            Check.JOURNAL,
            f"block {block} {_whose(replayed_holder)}",
            f"block {block} {_whose(holder)}",
            instance=instance,
            allocation=replayed_holder if holder is None else holder,
        )


class Replay:
    """Replays a journal with nothing but the events themselves. `findings` are the events that cannot be.

    Of a journal that is kept above `compacted_revision` alone, the first event about a block tells whose it was before.
    What no event speaks of is as the records say, as long as they say nothing that the kept events would have told.
    """

    def __init__(self, compacted_revision: int = 0) -> None:
        self.revision = self._compacted = compacted_revision
        self.count = 0
        self.totals: dict[str, int] = {}
        self.held: HeldBlocks = {}
        self.findings = Findings()
        self._from_the_start = compacted_revision == 0
        """The events tell all there is: an instance that they do not name is not there."""
        self._known: set[str] = set()
        """Otherwise, the instances that the events tell the size of, or that they are gone."""
        self._exclusive: dict[str, int] = {}
        """Which allocation has which instance exclusively, of those that the events granted so."""
        self._whole: set[str] = set()
        """And those that they tell all of: a block that they do not name is idle."""
        self._idle: dict[str, set[int]] = {}
        """And single blocks that are idle by the events."""

    def differing_shapes(self, instances: dict[str, tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
        """(instance, its blocks by the replay, its blocks by its record): where they differ. 0: not there."""
        for instance in instances.keys() | self.totals.keys():
            replayed, total = self.totals.get(instance, 0), instances.get(instance, (0, 0))[0]
            if replayed != total and self._knows_size(instance):
                yield instance, replayed, total

    def differing_blocks(self, held: HeldBlocks) -> Iterator[tuple[str, int, int | None, int | None]]:
        """(instance, block, whose by the replay, whose by the rows): where they differ. None: nobody's."""
        for instance in held.keys() | self.held.keys():
            rows, replayed = held.get(instance, {}), self.held.get(instance, {})
            if rows != replayed:
                for block in sorted(rows.keys() | replayed.keys()):
                    if rows.get(block) != replayed.get(block) and self._knows(instance, block, rows.get(block)):
                        yield instance, block, replayed.get(block), rows.get(block)

    def apply(self, event: Event) -> None:
        """The next event."""
        self.count += 1
        if event.revision != self.revision + 1:
            expected = f"revision {self.revision + 1} after {self.revision}"
            self.findings.add(Check.JOURNAL, expected, f"revision {event.revision}")
        self.revision = event.revision
        match event:
            case Granted():
                self._take(event.placements, event.revision)
                self._exclusive.update(dict.fromkeys(event.exclusive, event.revision))
            case Released() | Expired():
                self._free(event.freed, event.allocation)
            case InstanceCreated() | InstanceDeleted():
                self._resize(event.instance, event.fields.total_blocks if isinstance(event, InstanceCreated) else 0)
                self._whole.add(event.instance)
            case InstanceUpdated():
                self._resize(event.instance, event.fields.total_blocks)
            case FleetDeleted():
                self.totals.clear()
                self._from_the_start = True
            case Repaired():
                for correction in event.corrections:
                    self.correct(correction)
            case Renewed() | LeasesExtended() | TokenWasCancelled() | FleetCreated() | FleetUpdated() | Restored():
                pass  # they say nothing of blocks

    def correct(self, correction: Correction) -> None:
        """What a repair changed: from here on the journal says so."""
        match correction:
            case Correction(CorrectionKind.JOURNAL_SETTLED):
                self.findings = Findings()
            case Correction(CorrectionKind.SHAPE_RECONCILED, str(instance), after=total):
                self._resize(instance, total or 0)
            case Correction(CorrectionKind.BLOCK_FREED, str(instance), block=int(block)):
                self._make_idle(instance, block)
            case Correction(
                CorrectionKind.BLOCK_HELD | CorrectionKind.JOURNAL_RECONCILED, str(instance), allocation, int(block)
            ):
                if allocation is None:
                    self._make_idle(instance, block)
                else:
                    self.held.setdefault(instance, {})[block] = allocation
            case _:
                pass

    def _take(self, placements: Placements, allocation: int) -> None:
        for instance, block in _each(placements):
            if block >= self.totals.get(instance, 0) and self._knows_size(instance):
                expected, found = f"blocks 0..{self.totals.get(instance, 0) - 1}", f"block {block} granted"
                self.findings.add(Check.JOURNAL, expected, found, instance=instance, allocation=allocation)
            exclusive_to = self._exclusive.get(instance)
            if exclusive_to is not None and exclusive_to in self.held.get(instance, {}).values():
                found = f"held exclusively by allocation {exclusive_to}"
                expected = f"an instance that nobody holds exclusively when block {block} is granted"
                self.findings.add(Check.JOURNAL, expected, found, instance=instance, allocation=allocation)
            owner = self.held.setdefault(instance, {}).setdefault(block, allocation)
            if owner != allocation:
                expected = f"block {block} idle at its grant"
                self.findings.add(Check.JOURNAL, expected, _whose(owner), instance=instance, allocation=allocation)

    def _free(self, placements: Placements, allocation: int) -> None:
        for instance, block in _each(placements):
            owner = self.held.get(instance, {}).get(block)
            if owner == allocation or (owner is None and not self._knows(instance, block, allocation)):
                self._make_idle(instance, block)
            else:
                expected = f"block {block} held by it when it was freed"
                self.findings.add(Check.JOURNAL, expected, _whose(owner), instance=instance, allocation=allocation)

    def _resize(self, instance: str, total: int) -> None:
        """From here on the instance has so many blocks; 0: it is not there."""
        self._known.add(instance)
        if total:
            self.totals[instance] = total
        else:
            self.totals.pop(instance, None)

    def _make_idle(self, instance: str, block: int) -> None:
        self.held.get(instance, {}).pop(block, None)
        if not self._from_the_start:
            self._idle.setdefault(instance, set()).add(block)

    def _knows_size(self, instance: str) -> bool:
        return self._from_the_start or instance in self._known

    def _knows(self, instance: str, block: int, holder: int | None) -> bool:
        """Whether the events tell who has the block, or that this allocation has not: its grant would be among them."""
        if self._from_the_start or instance in self._whole or block in self.held.get(instance, {}):
            return True
        return block in self._idle.get(instance, ()) or (holder is not None and holder > self._compacted)


def _each(placements: Placements) -> Iterator[tuple[str, int]]:
    return ((instance, block) for instance, blocks in placements for block in blocks)


def _rows(held: HeldBlocks) -> Iterator[tuple[str, int, int]]:
    return ((instance, block, holder) for instance, blocks in held.items() for block, holder in blocks.items())


def _whose(allocation: int | None) -> str:
    return "idle" if allocation is None else f"held by allocation {allocation}"


def _one(allocation: int | None) -> str:
    return "nobody" if allocation is None else f"allocation {allocation}"


def _numbers(mask: int) -> str:
    return ", ".join(str(block) for block in range(mask.bit_length()) if mask >> block & 1) or "none"
