"""A repair's plan: each damage has its correction, conflicts are left to people, and what is carried out is clean."""

import random
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Final

import pytest

from blockyard_server.domain import limits
from blockyard_server.domain.answers import Check, Discrepancy
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
from blockyard_server.domain.events import Event, Released, Repaired, TokenWasCancelled
from blockyard_server.domain.repair import Books, Plan, plan_repair
from blockyard_server.domain.requests import Demand
from tests.unit.pure_fleet import SECOND, START, PureFleet, shape

COUNTER_SET, BLOCK_FREED, BLOCK_HELD = (
    CorrectionKind.COUNTER_SET,
    CorrectionKind.BLOCK_FREED,
    CorrectionKind.BLOCK_HELD,
)
TOKEN_RECORDED, JOURNAL_RECONCILED = CorrectionKind.TOKEN_RECORDED, CorrectionKind.JOURNAL_RECONCILED
SHAPE_RECONCILED, MEMORY_RELOADED = CorrectionKind.SHAPE_RECONCILED, CorrectionKind.MEMORY_RELOADED
JOURNAL_SETTLED = CorrectionKind.JOURNAL_SETTLED

ONE, TWO = 4, 5
"""The allocations of `kept`: n1 has 0, 1 of ONE and 2 of TWO; n2 has 0, 1 of ONE."""


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

    def books(self) -> Books:
        """The records as a repair gathers them."""
        replay = Replay()
        for event in self.events:
            replay.apply(event)
        readable = [a for i, a in self.live.items() if i not in self.unreadable]
        return Books(
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
        moved = (COUNTER_SET, BLOCK_FREED, BLOCK_HELD)
        for name in {c.instance for c in plan.corrections if c.kind in moved} & set[str | None](self.instances):
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


def kept() -> Ledger:
    """Records that agree, after much that has ended."""
    fleet = PureFleet(4, 2)
    fleet.acquire(Demand(instances=2, blocks=2))
    fleet.acquire(Demand(blocks=1, instance_names=("n1",)))
    ended = fleet.acquire(Demand(blocks=1), ttl_us=SECOND)
    fleet.release(ended.revision)
    return Ledger(fleet)


def test_records_that_agree_need_nothing() -> None:
    ledger = kept()

    assert ledger.verify() == []
    assert plan_repair(ledger.books()) == Plan((), (), truncated=False)


def lose_a_row(ledger: Ledger) -> None:
    del ledger.held["n1", 1]


def lose_a_row_and_its_count(ledger: Ledger) -> None:
    del ledger.held["n1", 1]
    ledger.instances["n1"] = (4, 2)
    ledger.memory["n1"] = (4, 0b101)


def add_a_row(ledger: Ledger) -> None:
    ledger.held["n1", 3] = 99


def add_a_row_beyond_the_instance(ledger: Ledger) -> None:
    ledger.held["n2", 2] = 99


def add_a_row_of_an_unknown_instance(ledger: Ledger) -> None:
    ledger.held["n9", 0] = 99


def give_a_row_to_another(ledger: Ledger) -> None:
    ledger.held["n1", 1] = TWO


def count_one_too_many(ledger: Ledger) -> None:
    ledger.instances["n2"] = (2, 3)


def forget_a_token(ledger: Ledger) -> None:
    del ledger.tokens["slurm", ledger.live[ONE].token]


def cancel_a_live_token(ledger: Ledger) -> None:
    ledger.tokens["slurm", ledger.live[TWO].token] = None


def think_a_block_idle(ledger: Ledger) -> None:
    ledger.memory["n1"] = (4, 0b011)


def know_a_ghost(ledger: Ledger) -> None:
    ledger.memory["ghost"] = (4, 0)


def tear_off_the_last_event(ledger: Ledger) -> None:
    del ledger.events[-1]


def lose_a_grant_in_the_journal(ledger: Ledger) -> None:
    ledger.events = [event for event in ledger.events if event.revision != TWO]


def grow_a_record(ledger: Ledger) -> None:
    ledger.instances["n2"] = (3, 2)
    ledger.memory["n2"] = (3, 0b11)


def lose_an_instance_in_the_journal(ledger: Ledger) -> None:
    ledger.events[2] = TokenWasCancelled(3, START, "slurm", "x")


def lose_a_row_and_its_grant(ledger: Ledger) -> None:
    lose_a_row(ledger)
    ledger.events = [event for event in ledger.events if event.revision != ONE]


def free_in_the_journal_alone(ledger: Ledger) -> None:
    ledger.revision += 1
    ledger.events.append(Released(ledger.revision, START, TWO, "job", (("n1", (2,)),), ()))


@pytest.mark.parametrize(
    ("damage", "corrections"),
    [
        (lose_a_row, [Correction(BLOCK_HELD, "n1", ONE, 1)]),
        (
            lose_a_row_and_its_count,
            [
                Correction(BLOCK_HELD, "n1", ONE, 1),
                Correction(COUNTER_SET, "n1", before=2, after=3),
                Correction(MEMORY_RELOADED, "n1"),
            ],
        ),
        (add_a_row, [Correction(BLOCK_FREED, "n1", 99, 3)]),
        (add_a_row_beyond_the_instance, [Correction(BLOCK_FREED, "n2", 99, 2)]),
        (add_a_row_of_an_unknown_instance, [Correction(BLOCK_FREED, "n9", 99, 0)]),
        (give_a_row_to_another, [Correction(BLOCK_FREED, "n1", TWO, 1), Correction(BLOCK_HELD, "n1", ONE, 1)]),
        (count_one_too_many, [Correction(COUNTER_SET, "n2", before=3, after=2)]),
        (forget_a_token, [Correction(TOKEN_RECORDED, allocation=ONE)]),
        (cancel_a_live_token, [Correction(TOKEN_RECORDED, allocation=TWO)]),
        (think_a_block_idle, [Correction(MEMORY_RELOADED, "n1")]),
        (know_a_ghost, [Correction(MEMORY_RELOADED, "ghost")]),
        (
            tear_off_the_last_event,
            [Correction(JOURNAL_SETTLED, before=1), Correction(JOURNAL_RECONCILED, "n1", None, 3)],
        ),
        (
            lose_a_grant_in_the_journal,
            [Correction(JOURNAL_SETTLED, before=1), Correction(JOURNAL_RECONCILED, "n1", TWO, 2)],
        ),
        (grow_a_record, [Correction(SHAPE_RECONCILED, "n2", before=2, after=3)]),
        (
            lose_an_instance_in_the_journal,
            [Correction(JOURNAL_SETTLED, before=2), Correction(SHAPE_RECONCILED, "n2", before=0, after=2)],
        ),
        (
            lose_a_row_and_its_grant,
            [
                Correction(BLOCK_HELD, "n1", ONE, 1),
                Correction(JOURNAL_SETTLED, before=1),
                Correction(JOURNAL_RECONCILED, "n1", ONE, 0),
                Correction(JOURNAL_RECONCILED, "n2", ONE, 0),
                Correction(JOURNAL_RECONCILED, "n2", ONE, 1),
            ],
        ),
        (free_in_the_journal_alone, [Correction(JOURNAL_RECONCILED, "n1", TWO, 2)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_damage_has_its_correction_and_is_mended_by_it(
    damage: Callable[[Ledger], None], corrections: list[Correction]
) -> None:
    ledger = kept()
    damage(ledger)
    assert ledger.verify()

    plan = plan_repair(ledger.books())
    ledger.carry_out(plan)

    assert sorted(plan.corrections, key=str) == sorted(corrections, key=str)
    assert plan.mends_all
    assert ledger.verify() == []
    assert plan_repair(ledger.books()) == Plan((), (), truncated=False)


def both_have_it(ledger: Ledger) -> None:
    ledger.live[TWO] = ledger.live[TWO]._replace(placements=(("n1", (1, 2)),))


def has_it_beyond(ledger: Ledger) -> None:
    ledger.live[TWO] = ledger.live[TWO]._replace(placements=(("n1", (2, 7)),))


def has_it_on_no_instance(ledger: Ledger) -> None:
    ledger.live[TWO] = ledger.live[TWO]._replace(placements=(("n1", (2,)), ("n9", (0,))))


def cannot_be_read(ledger: Ledger) -> None:
    ledger.unreadable.add(TWO)


def both_have_the_token(ledger: Ledger) -> None:
    ledger.live[TWO] = ledger.live[TWO]._replace(token=ledger.live[ONE].token)


def is_ahead(ledger: Ledger) -> None:
    ledger.revision -= 1


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (both_have_it, (Check.HELD_BLOCKS, "n1", TWO)),
        (has_it_beyond, (Check.HELD_BLOCKS, "n1", TWO)),
        (has_it_on_no_instance, (Check.HELD_BLOCKS, "n9", TWO)),
        (cannot_be_read, (Check.HELD_BLOCKS, "n1", TWO)),
        (both_have_the_token, (Check.TOKEN, None, TWO)),
        (is_ahead, (Check.JOURNAL, None, None)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_no_rule_can_know_is_left_as_it_is_beside_what_is_mended(
    damage: Callable[[Ledger], None], left: tuple[Check, str | None, int | None]
) -> None:
    ledger = kept()
    damage(ledger)
    assert plan_repair(ledger.books()).corrections == ()
    count_one_too_many(ledger)
    rows = dict(ledger.held)

    plan = plan_repair(ledger.books())

    mended = () if damage is is_ahead else (Correction(COUNTER_SET, "n2", before=3, after=2),)
    assert plan.corrections == mended
    assert left in {(d.check, d.instance, d.allocation) for d in plan.unrepaired}
    assert not plan.mends_all
    ledger.carry_out(plan)
    assert ledger.verify() == in_order(plan.unrepaired)
    assert ledger.held == rows


@pytest.mark.parametrize(
    ("damage", "granted", "left_alone"),
    [(both_have_it, ONE, ("n1", 1)), (has_it_beyond, TWO, ("n1", 7)), (cannot_be_read, TWO, ("n1", 2))],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_where_the_records_do_not_agree_the_journal_is_left_as_evidence(
    damage: Callable[[Ledger], None], granted: int, left_alone: tuple[str, int]
) -> None:
    ledger = kept()
    damage(ledger)
    ledger.events = [event for event in ledger.events if event.revision != granted]
    blocks = {key for key, holder in ledger.held.items() if holder == granted}

    plan = plan_repair(ledger.books())

    reconciled = {(c.instance, c.block) for c in plan.corrections if c.kind is JOURNAL_RECONCILED}
    assert reconciled == blocks - {left_alone}
    ledger.carry_out(plan)
    assert ledger.verify() == in_order(plan.unrepaired) != []


def test_more_than_one_repair_may_change_needs_another_one() -> None:
    fleet = PureFleet(*[1000] * 2)
    fleet.acquire(Demand(instances=2, blocks=1000))
    ledger = Ledger(fleet)
    ledger.held.clear()

    plans: list[Plan] = []
    while not (plans and plans[-1].mends_all):
        plans.append(plan_repair(ledger.books()))
        ledger.carry_out(plans[-1])
        assert len(plans) <= 3

    assert [(plan.truncated, len(plan.corrections)) for plan in plans[:2]] == [(True, limits.MAX_CORRECTIONS)] * 2
    assert ledger.verify() == []


SEEDS: Final = 600


SOAK_SEEDS: Final = 200_000


@pytest.mark.parametrize("seeds", [range(begin, begin + 100) for begin in range(0, SEEDS, 100)], ids=str)
def test_any_damage_is_mended_or_reported_and_no_live_allocation_loses_an_uncontested_block(seeds: range) -> None:
    damage_and_repair(seeds)


@pytest.mark.soak
def test_any_damage_is_mended_or_reported_for_many_more_seeds() -> None:
    damage_and_repair(range(SEEDS, SOAK_SEEDS))


def damage_and_repair(seeds: range) -> None:
    mended = left = 0
    for seed in seeds:
        dice = random.Random(seed)
        ledger = Ledger(a_life(dice))
        assert ledger.verify() == []
        assert plan_repair(ledger.books()) == Plan((), (), truncated=False), seed
        for _ in range(dice.randint(1, 6)):
            dice.choice(DAMAGES)(ledger, dice)
        live, before = deepcopy(ledger.live), dict(ledger.held)

        plan = plan_repair(ledger.books())
        ledger.carry_out(plan)

        assert ledger.verify() == in_order(plan.unrepaired), seed
        assert plan_repair(ledger.books()).corrections == (), seed
        assert ledger.live == live
        claims = {(each, i) for i, a in live.items() if i not in ledger.unreadable for each in blocks_of(a)}
        contested = {each for each, i in claims for other, j in claims if each == other and i != j}
        assert {(each, i) for each, i in before.items() if (each, i) in claims} <= set(ledger.held.items()), seed
        assert {(each, i) for each, i in before.items() if each in contested} <= set(ledger.held.items()), seed
        assert not plan.mends_all or claims == set(ledger.held.items()), seed
        mended += plan.mends_all
        left += not plan.mends_all
    assert min(mended, left) > 0, "the damage has no variety"


def blocks_of(allocation: object) -> Iterator[tuple[str, int]]:
    placements = getattr(allocation, "placements", ())
    return ((name, block) for name, blocks in placements for block in blocks)


def a_life(dice: random.Random) -> PureFleet:
    """A fleet of three instances after some grants and releases."""
    fleet = PureFleet(*(dice.randint(1, 6) for _ in range(3)))
    for _ in range(dice.randint(0, 12)):
        held = [a.allocation for a in fleet.records.allocations.values() if a.state == "HELD"]
        if held and dice.random() < 0.4:
            fleet.release(dice.choice(held))
        elif fleet.state.index.acquirable_blocks:
            fleet.acquire(Demand(blocks=1))
        if dice.random() < 0.1:
            fleet.add(f"m{fleet.state.revision}", shape(dice.randint(1, 3)))
    return fleet


def damage_a_row(ledger: Ledger, dice: random.Random) -> None:
    key = (dice.choice([*ledger.instances, "n9"]), dice.randint(0, 6))
    if ledger.held.pop(key, None) is None or dice.random() < 0.5:
        ledger.held[key] = dice.choice([*ledger.live, 99])


def damage_a_counter(ledger: Ledger, dice: random.Random) -> None:
    name = dice.choice(list(ledger.instances))
    ledger.instances[name] = (ledger.instances[name][0], dice.randint(0, 7))


def damage_a_shape(ledger: Ledger, dice: random.Random) -> None:
    name = dice.choice(list(ledger.instances))
    ledger.instances[name] = (dice.randint(1, 7), ledger.instances[name][1])


def damage_a_token(ledger: Ledger, dice: random.Random) -> None:
    if ledger.tokens:
        ledger.tokens[dice.choice(list(ledger.tokens))] = dice.choice([None, 99, *ledger.live])


def damage_an_allocation(ledger: Ledger, dice: random.Random) -> None:
    if ledger.live:
        number = dice.choice(list(ledger.live))
        match dice.randint(0, 3):
            case 0:
                del ledger.live[number]
            case 1:
                ledger.unreadable.add(number)
            case _:
                name = dice.choice(list(ledger.instances))
                blocks = tuple(sorted({dice.randint(0, 6) for _ in range(2)}))
                ledger.live[number] = ledger.live[number]._replace(placements=((name, blocks),))


def damage_the_journal(ledger: Ledger, dice: random.Random) -> None:
    if ledger.events:
        del ledger.events[dice.randrange(len(ledger.events))]


def damage_memory(ledger: Ledger, dice: random.Random) -> None:
    ledger.memory[dice.choice([*ledger.memory, "ghost"])] = (4, dice.randint(0, 15))


DAMAGES: Final = (
    damage_a_row,
    damage_a_counter,
    damage_a_shape,
    damage_a_token,
    damage_an_allocation,
    damage_the_journal,
    damage_memory,
)
