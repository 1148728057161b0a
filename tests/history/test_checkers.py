"""Both checkers have teeth: what is right passes, what is wrong is caught by each of them."""

import pytest

from tests.history.black_box import check_black_box
from tests.history.synthetic import FAULTS, Fault, Plan, synthetic_history
from tests.history.witness import check_with_witness


@pytest.mark.parametrize("seed", range(12))
def test_a_correct_history_passes_both(seed: int) -> None:
    history = synthetic_history(seed)

    witness, black_box = check_with_witness(history), check_black_box(history)

    assert witness.violations == []
    assert black_box.violations == []
    assert witness.changes > 50
    assert black_box.windows >= 3
    assert black_box.unsettled == black_box.windows_skipped == black_box.intents_skipped == 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("seed", range(8))
def test_a_fault_is_caught_by_both(fault: Fault, seed: int) -> None:
    history = synthetic_history(seed, Plan(calls=400), fault)

    assert not check_with_witness(history).linearizable
    assert not check_black_box(history).linearizable
