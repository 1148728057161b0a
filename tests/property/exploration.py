"""Runs the state machine for a number of steps. The same seed gives the same steps."""

from collections.abc import Sequence
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from tests.property.machine import ModelCheck
from tests.property.world import Template

STEPS_OF_AN_EXAMPLE: Final = 100
"""From an empty data file on. Long enough for leases to end, tokens to be forgotten and servers to restart."""
EXAMPLES_AT_ONCE: Final = 10
"""From then on Hypothesis prefers variations of what it has run, which differ in a step or two of a hundred."""
MAX_ROUNDS: Final = 1000


def explore(
    template: Template, *, seed: int, steps: int, phases: Sequence[Phase] = (Phase.generate, Phase.shrink)
) -> int:
    """Executes at least so many steps, and answers how many. Raises the smallest failure that it finds."""
    executed = 0
    for number in range(MAX_ROUNDS):
        if executed >= steps:
            break
        examples = min(-(-(steps - executed) // STEPS_OF_AN_EXAMPLE), EXAMPLES_AT_ONCE)
        executed += _explore_once(template, seed * MAX_ROUNDS + number, examples, phases)
    return executed


def _explore_once(template: Template, seed: int, examples: int, phases: Sequence[Phase]) -> int:
    @seeded(seed)
    class Check(ModelCheck):
        pass

    Check.template, Check.run = template, seed
    bounds = settings(
        max_examples=examples,
        stateful_step_count=STEPS_OF_AN_EXAMPLE,
        phases=phases,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        # They are about slow or large examples; these are, on purpose.
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Check, settings=bounds)
    return Check.steps
