"""How much one transaction does: what is above its bounds is asked again, and nothing waits for ever."""

from collections.abc import Iterator, Sequence

import pytest

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Grant, ReleaseAnswer
from blockyard_server.domain.requests import Release, Request
from blockyard_server.engine import batch as batch_module
from blockyard_server.engine.batch import MAX_DECIDE_S, MIN_SLICE_ROWS, RETRY_NEXT_BATCH, Outcome, SliceSize
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.transactor import Transactor
from tests.memory.transaction import MemoryTransaction
from tests.unit.engine_stories import acquire, filled_store
from tests.unit.hooked_store import HookedStore

SECOND_US = 1_000_000


class Ticking:
    """A clock that goes on by a step each time that it is read."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def carried_out(outcomes: Sequence[Outcome]) -> int:
    """How many were: those that were not are all at the end."""
    number = sum(outcome is not RETRY_NEXT_BATCH for outcome in outcomes)
    assert all(outcome is RETRY_NEXT_BATCH for outcome in outcomes[number:])
    return number


def turns(transactor: Transactor, requests: list[Request]) -> Iterator[int]:
    """Asks for all, and again for those that were left; how many each transaction carried out."""
    while requests:
        number = carried_out(transactor.carry_out("gpu", requests))
        yield number
        requests = requests[number:]


@pytest.fixture
def store() -> HookedStore:
    return filled_store(100)


def test_a_batch_ends_before_the_request_with_which_it_would_have_too_many_blocks(
    store: HookedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_BLOCKS_AT_ONCE", 10)
    transactor = Transactor(store, ManualClock())

    assert list(turns(transactor, [acquire(f"t{n}", 4) for n in range(7)])) == [2, 2, 2, 1]
    assert len(store.rows["gpu"].held) == 28


def test_a_request_above_the_bound_has_a_transaction_of_its_own(
    store: HookedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_BLOCKS_AT_ONCE", 10)
    transactor = Transactor(store, ManualClock())

    assert list(turns(transactor, [acquire("a"), acquire("wide", 30), acquire("b")])) == [1, 1, 1]


def test_what_releases_free_counts_too(store: HookedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    transactor = Transactor(store, ManualClock())
    transactor.carry_out("gpu", [acquire(f"t{n}", 4) for n in range(7)])
    monkeypatch.setattr(batch_module, "MAX_BLOCKS_AT_ONCE", 10)

    assert list(turns(transactor, [Release("gpu", "slurm", token=f"t{n}") for n in range(7)])) == [2, 2, 2, 1]
    assert store.rows["gpu"].held == {}


def test_a_batch_that_has_decided_for_long_enough_leaves_the_rest(store: HookedStore) -> None:
    clock = Ticking(MAX_DECIDE_S / 4)
    transactor = Transactor(store, ManualClock(), monotonic_s=clock)

    answered = list(turns(transactor, [acquire(f"t{n}") for n in range(9)]))

    assert sum(answered) == 9
    assert len(answered) > 1
    assert max(answered) < 9


def test_however_slow_the_first_request_is_carried_out(store: HookedStore) -> None:
    transactor = Transactor(store, ManualClock(), monotonic_s=Ticking(10 * MAX_DECIDE_S))

    assert list(turns(transactor, [acquire(f"t{n}") for n in range(3)])) == [1, 1, 1]


def test_records_are_looked_up_in_pieces_and_a_piece_sees_what_the_batch_has_done(
    store: HookedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "LOOKED_UP_AT_ONCE", 2)
    transactor = Transactor(store, ManualClock())
    looked_up: list[int] = []
    allocations = MemoryTransaction.allocations

    def counted(self: MemoryTransaction, ids: Sequence[int]) -> dict[int, Allocation]:
        looked_up.append(len(ids))
        return allocations(self, ids)

    monkeypatch.setattr(MemoryTransaction, "allocations", counted)
    held = transactor.carry_out("gpu", [acquire(f"before {n}") for n in range(4)])[-1]
    assert isinstance(held, Grant)
    wishes: list[Request] = [
        *(Release("gpu", "slurm", token=f"before {n}") for n in range(4)),
        acquire("a"),
        acquire("b"),
        acquire("a"),
        Release("gpu", "slurm", token="b"),
        Release("gpu", "slurm", token="before 3"),
        Release("gpu", "slurm", held.revision),
    ]

    outcomes = transactor.carry_out("gpu", wishes)

    first, replayed = outcomes[4], outcomes[6]
    assert isinstance(first, Grant)
    assert isinstance(replayed, Grant)
    assert replayed.replayed
    assert replayed.view == first.view
    released = [outcome for outcome in outcomes if isinstance(outcome, ReleaseAnswer)]
    assert [answer.outcome.value for answer in released] == [*["RELEASED"] * 5, *["ALREADY_RELEASED"] * 2]
    assert len(store.rows["gpu"].held) == 1
    assert looked_up
    assert max(looked_up) <= 2


def test_ended_leases_are_swept_in_slices_and_those_who_do_not_depend_on_them_go_on_in_between(
    store: HookedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    transactor = Transactor(store, clock)
    transactor.carry_out("gpu", [acquire(f"lease {n}", 4, ttl_us=SECOND_US) for n in range(9)])
    clock.advance(SECOND_US)
    monkeypatch.setattr(batch_module, "MAX_BLOCKS_AT_ONCE", 10)

    assert transactor.expire_due("gpu")
    assert len(store.rows["gpu"].held) == 28
    [grant] = transactor.carry_out("gpu", [acquire("small")])
    assert isinstance(grant, Grant)
    assert len(store.rows["gpu"].held) == 28 - 8 + 1
    while transactor.expire_due("gpu"):
        pass
    assert len(store.rows["gpu"].held) == 1


def test_a_slow_slice_makes_the_next_one_smaller_and_a_quick_full_one_larger() -> None:
    clock = Ticking(0.0)
    size = SliceSize(clock)
    asked: list[int] = []

    def run(found: int | None = None) -> bool:
        def work(rows: int) -> int:
            asked.append(rows)
            return rows if found is None else found

        return size.run(work, 1000, int)[1]

    assert run()
    assert run()
    assert not run(found=3)
    clock.step_s = 2 * MAX_DECIDE_S
    for _ in range(5):
        run()
    clock.step_s = 0.0
    run()
    run()

    assert asked == [64, 128, 256, 256, 128, 64, 32, 16, 16, 32]
    assert min(asked) == MIN_SLICE_ROWS
