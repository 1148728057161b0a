"""Random lives, random damage: a repair mends or reports it, and nobody loses a block that was rightly held."""

import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Final

import pytest

from blockyard_server.domain.repair import Plan, plan_repair
from blockyard_server.domain.requests import Demand
from tests.unit.plain_ledger import Ledger, in_order
from tests.unit.pure_fleet import PureFleet, shape

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
        assert not plan.is_complete or claims == set(ledger.held.items()), seed
        mended += plan.is_complete
        left += not plan.is_complete
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
