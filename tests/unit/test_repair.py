"""A repair's plan: each damage has its correction, conflicts are left to people, and what is carried out is clean."""

from collections.abc import Callable

import pytest

from blockyard_server.domain import limits
from blockyard_server.domain.answers import Check
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import Released, TokenWasCancelled
from blockyard_server.domain.repair import Plan, plan_repair
from blockyard_server.domain.requests import Demand
from tests.unit.plain_ledger import Ledger, in_order
from tests.unit.pure_fleet import SECOND, START, PureFleet

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
    assert plan.is_complete
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
    assert not plan.is_complete
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
    while not (plans and plans[-1].is_complete):
        plans.append(plan_repair(ledger.books()))
        ledger.carry_out(plans[-1])
        assert len(plans) <= 3

    assert [(plan.truncated, len(plan.corrections)) for plan in plans[:2]] == [(True, limits.MAX_CORRECTIONS)] * 2
    assert ledger.verify() == []
