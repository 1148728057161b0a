"""Verify's comparisons: each injected difference is reported, by instance, with the right check; clean is clean."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from blockyard_server.domain import limits
from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Check, Discrepancy
from blockyard_server.domain.audit import (
    Findings,
    check_allocations,
    check_counters,
    check_journal,
    check_memory,
    check_tokens,
    gather_held,
)
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetDeleted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    Released,
    TokenWasCancelled,
)
from blockyard_server.domain.requests import Demand
from tests.unit.pure_fleet import SECOND, START, PureFleet, shape


@dataclass
class FleetRecords:
    """Everything that Verify compares, as plain values that a test may falsify."""

    revision: int
    instances: dict[str, tuple[int, int]]
    held: list[tuple[str, int, int]]
    live: list[Allocation]
    tokens: list[tuple[int, int | None]]
    memory: dict[str, tuple[int, int]]
    events: list[Event]
    findings: Findings = field(default_factory=Findings)
    compacted_revision: int = 0

    def compact(self, revision: int) -> "FleetRecords":
        """Forgets the journal up to this revision."""
        self.compacted_revision = revision
        self.events = [event for event in self.events if event.revision > revision]
        return self

    def differences(self) -> list[Discrepancy]:
        """Compares everything with everything."""
        held = gather_held(self.held)
        check_counters(self.instances, held, self.findings)
        count = check_allocations(self.live, held, self.findings)
        check_tokens(self.tokens, self.findings)
        check_memory(self.memory, self.instances, held, self.findings)
        replayed = check_journal(
            iter(self.events),
            self.revision,
            self.instances,
            held,
            self.findings,
            compacted_revision=self.compacted_revision,
        )
        assert (count, replayed) == (len(self.live), len(self.events))
        return self.findings.discrepancies

    def found(self) -> set[tuple[Check, str | None, int | None]]:
        """Which check found something, where."""
        return {(d.check, d.instance, d.allocation) for d in self.differences()}


def kept() -> FleetRecords:
    """FleetRecords that agree: allocations 3 (n1: 0, 1; n2: 0, 1) and 4 (n1: 2), after much that has ended."""
    fleet = PureFleet(4, 2)
    first = fleet.acquire(Demand(instances=2, blocks=2))
    second = fleet.acquire(Demand(blocks=1, instance_names=("n1",)))
    third = fleet.acquire(Demand(blocks=1), ttl_us=SECOND)
    fleet.release(third.revision)
    live = [fleet.records.allocations[grant.revision] for grant in (first, second)]
    held = [(n, block, a.allocation) for a in live for n, blocks in a.placements for block in blocks]
    index = fleet.state.index.by_name
    return FleetRecords(
        fleet.state.revision,
        {name: (i.total_blocks, i.busy.bit_count()) for name, i in index.items()},
        held,
        live,
        [(a.allocation, a.allocation) for a in live],
        {name: (i.total_blocks, i.busy) for name, i in index.items()},
        fleet.events,
    )


ONE, TWO = 4, 5
"""The allocations of `kept`: revisions 1 to 3 made the fleet and its instances."""


def test_books_that_agree_are_clean() -> None:
    books = kept()

    assert books.differences() == []
    assert not books.findings.truncated
    assert [a.allocation for a in books.live] == [ONE, TWO]
    assert sorted(books.held) == [("n1", 0, ONE), ("n1", 1, ONE), ("n1", 2, TWO), ("n2", 0, ONE), ("n2", 1, ONE)]


def lose_a_row(books: FleetRecords) -> None:
    books.held.remove(("n1", 1, ONE))


def add_a_row(books: FleetRecords) -> None:
    books.held.append(("n1", 3, 99))


def give_a_row_to_another(books: FleetRecords) -> None:
    books.held.remove(("n1", 1, ONE))
    books.held.append(("n1", 1, TWO))


def count_one_too_many(books: FleetRecords) -> None:
    books.instances["n2"] = (2, 3)


def shrink_under_a_holder(books: FleetRecords) -> None:
    books.instances["n2"] = (1, 2)
    books.memory["n2"] = (1, 0b11)
    books.events.append(InstanceUpdated(books.revision + 1, START, "n2", shape(1)))
    books.revision += 1


def lose_an_instance(books: FleetRecords) -> None:
    del books.instances["n2"]


def end_without_freeing(books: FleetRecords) -> None:
    del books.live[1]
    del books.tokens[1]


def hold_twice(books: FleetRecords) -> None:
    books.live[1] = books.live[1]._replace(placements=(("n1", (1, 2)),))


def forget_a_token(books: FleetRecords) -> None:
    books.tokens[0] = (ONE, None)


def mistake_a_token(books: FleetRecords) -> None:
    books.tokens[0] = (ONE, TWO)


def think_a_block_idle(books: FleetRecords) -> None:
    books.memory["n1"] = (4, 0b011)


def think_an_instance_larger(books: FleetRecords) -> None:
    books.memory["n1"] = (5, 0b111)


def not_know_an_instance(books: FleetRecords) -> None:
    del books.memory["n1"]


def know_a_ghost(books: FleetRecords) -> None:
    books.memory["ghost"] = (4, 0)


def tear_off_the_last_event(books: FleetRecords) -> None:
    del books.events[-1]


def lose_an_event_in_the_middle(books: FleetRecords) -> None:
    del books.events[-2:]
    books.events.append(TokenWasCancelled(books.revision, START, "slurm", "x"))


def free_twice(books: FleetRecords) -> None:
    books.revision += 1
    books.events.append(Released(books.revision, START, 6, "job", (("n1", (3,)),), ()))


def free_what_another_holds(books: FleetRecords) -> None:
    books.revision += 1
    books.events.append(Expired(books.revision, START, ONE, "job", (("n1", (2,)),)))


def journal_an_instance_away(books: FleetRecords) -> None:
    books.revision += 2
    books.events.append(InstanceCreated(books.revision - 1, START, "n3", 3, shape()))
    books.events.append(InstanceDeleted(books.revision, START, "n2"))


def journal_the_fleet_away(books: FleetRecords) -> None:
    books.revision += 1
    books.events.append(FleetDeleted(books.revision, START))


COUNTER, HELD, JOURNAL, MEMORY, TOKEN = Check.COUNTER, Check.HELD_BLOCKS, Check.JOURNAL, Check.MEMORY, Check.TOKEN


@pytest.mark.parametrize(
    ("falsify", "found"),
    [
        (
            lose_a_row,
            {(COUNTER, "n1", None), (HELD, "n1", ONE), (MEMORY, "n1", None), (JOURNAL, "n1", ONE)},
        ),
        (
            add_a_row,
            {(COUNTER, "n1", None), (HELD, "n1", 99), (MEMORY, "n1", None), (JOURNAL, "n1", 99)},
        ),
        (give_a_row_to_another, {(HELD, "n1", ONE), (HELD, "n1", TWO), (JOURNAL, "n1", TWO)}),
        (count_one_too_many, {(COUNTER, "n2", None)}),
        (shrink_under_a_holder, {(HELD, "n2", ONE)}),
        (lose_an_instance, {(HELD, "n2", None), (MEMORY, "n2", None), (JOURNAL, "n2", None)}),
        (end_without_freeing, {(HELD, "n1", TWO)}),
        (hold_twice, {(HELD, "n1", TWO)}),
        (forget_a_token, {(TOKEN, None, ONE)}),
        (mistake_a_token, {(TOKEN, None, ONE)}),
        (think_a_block_idle, {(MEMORY, "n1", None)}),
        (think_an_instance_larger, {(MEMORY, "n1", None)}),
        (not_know_an_instance, {(MEMORY, "n1", None)}),
        (know_a_ghost, {(MEMORY, "ghost", None)}),
        (tear_off_the_last_event, {(JOURNAL, None, None), (JOURNAL, "n1", 6)}),
        (lose_an_event_in_the_middle, {(JOURNAL, None, None)}),
        (free_twice, {(JOURNAL, "n1", 6)}),
        (free_what_another_holds, {(JOURNAL, "n1", ONE)}),
        (journal_an_instance_away, {(JOURNAL, "n2", None), (JOURNAL, "n3", None)}),
        (journal_the_fleet_away, {(JOURNAL, "n1", None), (JOURNAL, "n2", None)}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_difference_is_reported_where_it_is(
    falsify: Callable[[FleetRecords], None], found: set[tuple[Check, str | None, int | None]]
) -> None:
    books = kept()
    falsify(books)

    assert books.found() == found


def test_a_difference_says_what_was_expected_and_what_was_found() -> None:
    books = kept()
    count_one_too_many(books)
    think_a_block_idle(books)

    assert [(d.expected, d.actual) for d in books.differences()] == [
        ("busy_blocks = 2", "busy_blocks = 3"),
        ("4 blocks, held: 0, 1, 2", "4 blocks, held: 0, 1"),
    ]


def test_more_differences_than_the_limit_are_cut_and_said_to_be() -> None:
    books = kept()
    books.tokens = [(ONE, None)] * limits.MAX_DISCREPANCIES
    assert len(books.differences()) == limits.MAX_DISCREPANCIES
    assert not books.findings.truncated

    books.findings.add(Check.TOKEN, "", "")
    assert len(books.findings.discrepancies) == limits.MAX_DISCREPANCIES
    assert books.findings.truncated


LAST = 7
"""The last revision of `kept`, which a compaction always leaves."""


@pytest.mark.parametrize("compacted", range(LAST))
def test_books_that_agree_are_clean_wherever_their_journal_begins(compacted: int) -> None:
    books = kept().compact(compacted)

    assert (books.revision, len(books.events)) == (LAST, LAST - compacted)
    assert books.differences() == []


def free_what_was_never_granted(books: FleetRecords) -> None:
    """Allocation 6 has no block 3: of a compacted journal, the grant of 6 tells so."""
    books.revision += 1
    books.events.append(Released(books.revision, START, 6, "job", (("n1", (3,)),), ()))


def take_what_is_held(books: FleetRecords) -> None:
    books.held.append(("n1", 3, LAST))


def delete_and_keep(books: FleetRecords) -> None:
    books.revision += 1
    books.events.append(InstanceDeleted(books.revision, START, "n2"))


def free_and_hold(books: FleetRecords) -> None:
    books.revision += 1
    books.events.append(Released(books.revision, START, ONE, "job", (("n2", (1,)),), ()))


def free_for_two(books: FleetRecords) -> None:
    for allocation in (ONE, TWO):
        books.revision += 1
        books.events.append(Released(books.revision, START, allocation, "job", (("n2", (1,)),), ()))


def grow_unnoticed(books: FleetRecords) -> None:
    books.revision += 1
    books.events.append(InstanceUpdated(books.revision, START, "n2", shape(9)))


@pytest.mark.parametrize("compacted", range(LAST))
@pytest.mark.parametrize(
    ("falsify", "found"),
    [
        (tear_off_the_last_event, (JOURNAL, None, None)),
        (lose_a_row, (COUNTER, "n1", None)),
        (give_a_row_to_another, (HELD, "n1", ONE)),
        (think_a_block_idle, (MEMORY, "n1", None)),
        (take_what_is_held, (JOURNAL, "n1", LAST)),
        (delete_and_keep, (JOURNAL, "n2", None)),
        (free_and_hold, (JOURNAL, "n2", ONE)),
        (free_for_two, (JOURNAL, "n2", TWO)),
        (grow_unnoticed, (JOURNAL, "n2", None)),
        (journal_the_fleet_away, (JOURNAL, "n1", None)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_still_found_after_a_compaction(
    falsify: Callable[[FleetRecords], None], found: tuple[Check, str | None, int | None], compacted: int
) -> None:
    books = kept()
    falsify(books)

    assert found in books.compact(compacted).found()


@pytest.mark.parametrize("compacted", range(5))
def test_a_release_without_its_grant_is_found_as_long_as_the_grant_would_be_kept(compacted: int) -> None:
    books = kept()
    free_what_was_never_granted(books)

    assert (JOURNAL, "n1", 6) in books.compact(compacted).found()


def test_a_hole_in_what_is_kept_of_a_journal_is_found() -> None:
    books = kept().compact(3)
    del books.events[1]

    assert (JOURNAL, None, None) in books.found()


def test_an_allocation_that_ended_before_is_nobody_who_may_hold_a_block_that_an_event_freed() -> None:
    books = kept().compact(6)
    books.held.append(("n1", 3, 6))

    assert (JOURNAL, "n1", 6) in books.found()
