"""Runs the scenarios of abuse and prints goal, figure and verdict of each. Ends with 1 if a goal was missed.

The short form, for CI, fails only on figures that do not depend on the machine's speed.
"""

import sys
from typing import Final

from benchmarks.abuse import changes, connections, cost, denied, flood, requests, strangers, streams, tls, waiting
from benchmarks.stress import bursts
from benchmarks.stress.command import main
from benchmarks.stress.scenario import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    bursts.SCENARIO,
    strangers.SCENARIO,
    *flood.SCENARIOS,
    denied.SCENARIO,
    requests.SCENARIO,
    waiting.SCENARIO,
    streams.SCENARIO,
    connections.SCENARIO,
    cost.SCENARIO,
    tls.SCENARIO,
    changes.SCENARIO,
)

if __name__ == "__main__":
    sys.exit(main(SCENARIOS, program="python -m benchmarks.abuse", description=__doc__))
