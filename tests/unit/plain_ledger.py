"""A fleet's records as plain values, which a test may damage, a plan may mend, and Verify may judge."""

from collections.abc import Iterable

from blockyard_server.domain.answers import Discrepancy
from blockyard_server.domain.audit import (
    Findings,
    Replay,
    check_allocations,
    check_counters,
    check_journal,
    check_memory,
    check_tokens,
    gather_held,
)
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import Event, Repaired
from blockyard_server.domain.repair import FleetRecords, Plan
from tests.unit.pure_fleet import START, PureFleet

COUNTED = (CorrectionKind.COUNTER_SET, CorrectionKind.BLOCK_FREED, CorrectionKind.BLOCK_HELD)


def in_order(discrepancies: Iterable[Discrepancy]) -> list[Discrepancy]:
    """The same for the same differences."""
    return sorted(discrepancies, key=str)


class Ledger:
    """A fleet's records as they are in a database, which a test may damage and a plan may mend."""

    def __init__(self, fleet: PureFleet) -> None:
        self.revision = fleet.state.revision
        self.events: list[Event] = list(fleet.events)
        self.live = {a.allocation: a for a in fleet.records.allocations.values() if a.state == "HELD"}
        self.unreadable: set[int] = set()
        self.held = {
            (name, block): a.allocation for a in self.live.values() for name, blocks in a.placements for block in blocks
        }
        by_name = fleet.state.index.by_name
        self.instances = {name: (i.total_blocks, i.busy.bit_count()) for name, i in by_name.items()}
        self.memory = {name: (i.total_blocks, i.busy) for name, i in by_name.items()}
        self.tokens: dict[tuple[str, str], int | None] = {(a.caller, a.token): a.allocation for a in self.live.values()}

    def books(self) -> FleetRecords:
        """The records as a repair gathers them."""
        replay = Replay()
        for event in self.events:
            replay.apply(event)
        readable = [a for i, a in self.live.items() if i not in self.unreadable]
        return FleetRecords(
            self.revision,
            dict(self.instances),
            gather_held((name, block, holder) for (name, block), holder in self.held.items()),
            readable,
            frozenset(self.unreadable),
            {i: self.tokens.get((a.caller, a.token)) for i, a in self.live.items()},
            replay,
            dict(self.memory),
            Findings(),
        )

    def verify(self) -> list[Discrepancy]:
        """What Verify says, with nothing of the repair's code; sorted."""
        findings = Findings()
        held = gather_held((name, block, holder) for (name, block), holder in self.held.items())
        check_counters(self.instances, held, findings)
        check_allocations((a for i, a in self.live.items() if i not in self.unreadable), held, findings)
        tokens = ((i, self.tokens.get((a.caller, a.token))) for i, a in self.live.items())
        check_tokens(tokens, findings)
        check_memory(self.memory, self.instances, held, findings)
        check_journal(iter(self.events), self.revision, self.instances, held, findings)
        return in_order(findings.discrepancies)

    def carry_out(self, plan: Plan) -> None:
        """Changes what the plan says, row by row, as a store does; memory is read anew."""
        if not plan.corrections:
            return
        for correction in plan.corrections:
            self._carry_out(correction)
        for name in {c.instance for c in plan.corrections if c.kind in COUNTED} & set[str | None](self.instances):
            assert name is not None
            rows = sum(instance == name for instance, _ in self.held)
            assert rows <= self.instances[name][0], "no counter can be right"
            self.instances[name] = (self.instances[name][0], rows)
        self.revision += 1
        self.events.append(Repaired(self.revision, START, plan.corrections))
        self.memory = {
            name: (total, sum(1 << block for instance, block in self.held if instance == name))
            for name, (total, _) in self.instances.items()
        }

    def _carry_out(self, correction: Correction) -> None:
        match correction:
            case Correction(CorrectionKind.BLOCK_FREED, str(instance), allocation, int(block)):
                assert self.held.pop((instance, block)) == allocation
            case Correction(CorrectionKind.BLOCK_HELD, str(instance), int(allocation), int(block)):
                assert (instance, block) not in self.held
                assert allocation in self.live
                self.held[instance, block] = allocation
            case Correction(CorrectionKind.TOKEN_RECORDED, allocation=int(allocation)):
                record = self.live[allocation]
                self.tokens[record.caller, record.token] = allocation
            case _:
                pass
