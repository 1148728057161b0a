"""The demo fleet of `blockyard serve --demo`: something to look at in the first minute."""

from typing import Final

from blockyard.client import Client
from blockyard.enums import PlacementStrategy
from blockyard.errors import FleetNotFound
from blockyard.types import Demand

DEMO_FLEET: Final = "demo"
_INSTANCES: Final = (
    ("node-1", 8, "a100"),
    ("node-2", 8, "a100"),
    ("node-3", 16, "h100"),
    ("node-4", 4, "l4"),
)
_HOLDERS: Final = (
    ("train-llm", Demand(instances=2, blocks=4, selector={"gpu": "a100"})),
    ("notebook-ada", Demand(blocks=1)),
    ("eval-nightly", Demand(blocks=6, selector={"gpu": "h100"})),
    ("serve-chat", Demand(blocks=3, selector={"gpu": "h100"})),
    ("notebook-grace", Demand(blocks=2)),
)


def create_demo_fleet(client: Client) -> bool:
    """Makes the demo fleet with a few instances and allocations. False: it is there already, and is left as it is."""
    try:
        client.get_fleet(DEMO_FLEET)
    except FleetNotFound:
        pass
    else:
        return False
    client.create_fleet(DEMO_FLEET, labels={"purpose": "demo"}, default_placement_strategy=PlacementStrategy.BEST_FIT)
    for name, blocks, gpu in _INSTANCES:
        client.create_instance(
            DEMO_FLEET,
            name,
            total_blocks=blocks,
            labels={"gpu": gpu},
            resources={"gpu": blocks, "memory_mib": blocks * 65_536},
        )
    for holder, demand in _HOLDERS:
        # The token makes a second attempt, after a start that broke off here, the same intent.
        client.acquire(DEMO_FLEET, demands=[demand], holder=holder, token=f"demo-{holder}")
    client.cordon_instance(DEMO_FLEET, "node-4")
    return True
