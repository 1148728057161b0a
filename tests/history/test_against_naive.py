"""The checkers agree with the definition of linearizability on small histories, right ones and wrong ones."""

from dataclasses import replace
from typing import Final

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.history.black_box import check_black_box
from tests.history.naive import has_an_order, whole_fleet
from tests.history.record import Described, Freed, Granted, History, Listed, Op
from tests.history.search import NoOrder, find_order
from tests.history.synthetic import STEP_NS, Plan, synthetic_history
from tests.history.witness import check_with_witness

PLAN: Final = Plan(calls=6, sizes=(2, 1), spread=3.0, lost=0.1, settle=False, leases=False)
EXAMPLES: Final = settings(max_examples=300, deadline=None, derandomize=True)

places = st.integers(0, PLAN.calls - 1)
shifts = st.integers(-4, 4).map(lambda steps: steps * STEP_NS)
changes = st.lists(
    st.tuples(st.sampled_from(["start", "end", "swap", "revision", "count"]), places, places, shifts), max_size=2
)


def changed(history: History, change: tuple[str, int, int, int]) -> History:
    """A call that is later or earlier than it was, or an answer that is not its own."""
    kind, place, other, shift = change
    ops = list(history.ops)
    op = ops[place]
    if op.end_ns is None or op.answer is None:
        return history
    match kind:
        case "start":
            ops[place] = replace(op, start_ns=min(op.start_ns + shift, op.end_ns - 1))
        case "end":
            ops[place] = replace(op, end_ns=max(op.end_ns + shift, op.start_ns + 1))
        case "swap" if type(ops[other].asked) is type(op.asked) and ops[other].answer is not None:
            ops[place], ops[other] = replace(op, answer=ops[other].answer), replace(ops[other], answer=op.answer)
        case _:
            ops[place] = replaced(op, by=1 if shift > 0 else -1, count=kind == "count")
    return replace(history, ops=ops)


def replaced(op: Op, *, by: int, count: bool) -> Op:
    answer = op.answer
    if isinstance(answer, Described) and count:
        return replace(op, answer=replace(answer, total_busy=answer.total_busy + by))
    if isinstance(answer, Described | Freed | Listed):
        return replace(op, answer=replace(answer, revision=answer.revision + by))
    if isinstance(answer, Granted):
        return replace(op, answer=replace(answer, replayed=not answer.replayed))
    return op


def search_finds_an_order(history: History) -> bool:
    try:
        find_order(whole_fleet(history.sizes, history.ops), ())
    except NoOrder:
        return False
    return True


@EXAMPLES
@given(st.integers(0, 10_000), changes)
def test_each_checker_agrees_with_the_definition(seed: int, wrongs: list[tuple[str, int, int, int]]) -> None:
    history = synthetic_history(seed, PLAN)
    for wrong in wrongs:
        history = changed(history, wrong)

    is_right = has_an_order(history.sizes, history.ops)
    witness, black_box = check_with_witness(history), check_black_box(history)

    event(f"right: {is_right}, by the witness: {witness.linearizable}, from outside: {black_box.linearizable}")
    assert search_finds_an_order(history) == is_right
    # What the witness confirms is right, for its order is an order; and what the outside refutes is wrong.
    assert is_right or not witness.linearizable
    assert black_box.linearizable or not is_right
    # A history as it was made has the order of its journal.
    assert witness.linearizable or wrongs
    assert is_right or wrongs
