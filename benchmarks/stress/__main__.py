"""Runs the scenarios and prints goal, figure and verdict of each. Ends with 1 if a goal was missed.

The short form, for CI, fails only on figures that do not depend on the machine's speed.
"""

import sys
from typing import Final

from benchmarks.stress import (
    backup,
    descriptors,
    drains,
    expiry,
    large_grants,
    overload,
    pooler,
    selectors,
    starts,
    watches,
)
from benchmarks.stress.command import main
from benchmarks.stress.scenario import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    *large_grants.SCENARIOS,
    *selectors.SCENARIOS,
    expiry.SCENARIO,
    watches.SCENARIO,
    overload.SCENARIO,
    descriptors.SCENARIO,
    drains.SCENARIO,
    starts.SCENARIO,
    backup.SCENARIO,
    pooler.SCENARIO,
)


if __name__ == "__main__":
    sys.exit(main(SCENARIOS, program="python -m benchmarks.stress", description=__doc__))
