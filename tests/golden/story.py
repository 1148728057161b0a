"""What the golden databases tell, and what a server of their release answered of it.

`tell` was run once, against a server of the release that is kept here (`write.py`). `answers` asks a server, of
whatever release, for everything that there is to see.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any, Final

from blockyard import Client, Demand, DescribeView, InstanceState, PlacementStrategy, Selector

FLEETS: Final = ("again", "gpu", "halted", "many", "repaired")
"""Those that are there in the end. `gone` was deleted; `again` was deleted, and created again, and compacted."""
DAY_S: Final = 24 * 3600.0
HELD: Final[dict[str, dict[str, Any]]] = {
    "picky": {"fleet": "gpu", "blocks": 1, "holder": "picky", "selector": Selector(match_labels={"zone": "a"})},
    "whole": {
        "fleet": "gpu",
        "blocks": 8,
        "holder": "job",
        "ttl": 300 * DAY_S,
        "annotations": {"note": '8 "blöcke"\n'},
    },
    "gang": {"fleet": "gpu", "blocks": 2, "instances": 3, "holder": "gang ☃", "strategy": PlacementStrategy.WORST_FIT},
    "alone": {"fleet": "gpu", "exclusive": True, "holder": "alone", "ttl": 300 * DAY_S},
    "shared": {"fleet": "gpu", "requirements": {"gpu": 1}, "holder": "shared"},
    "long": {"fleet": "many", "blocks": 4000, "holder": "x" * 256, "ttl": 300 * DAY_S},
    "shapes": {"fleet": "many", "demands": [Demand(blocks=3), Demand(blocks=1, instances=2)], "holder": "shapes"},
    "recorded": {"fleet": "repaired", "blocks": 2, "holder": "recorded"},
}
"""Acquires whose grants are held in the end, by token."""
OVER: Final[dict[str, dict[str, Any]]] = {
    "partly": {"fleet": "gpu", "blocks": 3, "holder": "partly"},
    "released": {"fleet": "gpu", "blocks": 1, "holder": "over", "ttl": 60},
    "renewed": {"fleet": "gpu", "blocks": 1, "holder": "renewed", "ttl": 60},
    "expired": {"fleet": "gpu", "blocks": 1, "holder": "late", "ttl": 0.2},
}
"""Acquires of which something more was told afterwards, by token."""
CANCELLED: Final = "cancelled"
"""A token that was cancelled before its acquire came."""
DAMAGE: Final = (
    "UPDATE instances SET busy_blocks = 7 WHERE fleet = 'halted'",
    "UPDATE instances SET busy_blocks = 5 WHERE fleet = 'repaired'",
    "DELETE FROM tokens WHERE fleet = 'repaired'",
    "UPDATE fleets SET compacted_revision = 4 WHERE fleet = 'again'",
    "DELETE FROM journal WHERE fleet = 'again' AND revision <= 4",
)


def tell(client: Client, damage: Callable[[str], object]) -> None:
    """Everything that leaves a trace. `damage` executes a statement beside the server."""
    for fleet in ("gone", "gpu", "halted", "repaired", "again"):
        client.create_fleet(fleet, labels={"team": "nlp", "a": ""})
        client.create_instance(fleet, "n0", total_blocks=8, labels={"zone": "a"}, resources={"gpu": 8, "huge": 2**62})
    client.create_fleet("many", default_placement_strategy=PlacementStrategy.FIRST_FIT, max_ttl=366 * DAY_S)
    for fleet in ("gone", "again"):
        client.release(client.acquire(fleet, blocks=1, holder="before").allocation)
        client.delete_fleet(fleet, force=True)
    client.create_fleet("again", labels={"life": "second"})
    client.create_instance("again", "n0", total_blocks=2)
    for number in range(1, 8):
        client.create_instance("gpu", f"n{number}", total_blocks=8, labels={"zone": "b"}, resources={"gpu": 8})
        client.create_instance("many", f"n{number}", total_blocks=4096)
    for token, asked in HELD.items():
        client.acquire(**asked, token=token)
    partly = client.acquire("gpu", blocks=3, holder="partly", token="partly").allocation
    (places,) = partly.placements
    client.release(partly, placements=[dataclasses.replace(places, blocks=places.blocks[:1])])
    client.release(client.acquire("gpu", blocks=1, holder="over", token="released", ttl=60).allocation)
    client.renew(client.acquire("gpu", blocks=1, holder="renewed", token="renewed", ttl=60).allocation, ttl=200 * DAY_S)
    client.acquire("gpu", blocks=1, holder="late", token="expired", ttl=0.2)
    client.release_by_token("gpu", "cancelled")
    time.sleep(0.5)
    client.update_fleet("gpu", labels={"team": "vision"}, default_ttl=200 * DAY_S)
    client.update_instance("gpu", "n1", resources={"gpu": 8, "memory_mib": 1})
    client.cordon_instance("gpu", "n5")
    client.update_instance("gpu", "n6", state=InstanceState.OFFLINE)
    client.create_instance("gpu", "brief", total_blocks=1)
    client.delete_instance("gpu", "brief")
    for statement in DAMAGE:
        damage(statement)
    for fleet in ("halted", "repaired"):
        assert not client.verify(fleet).clean
    assert client.repair("repaired", apply=True).applied


def answers(client: Client) -> dict[str, Any]:
    """What there is to see, as JSON has it; times are texts."""
    seen: dict[str, Any] = {"fleets": [_plain(fleet) for fleet in client.list_fleets()]}
    for fleet in FLEETS:
        seen[fleet] = {
            "describe": _plain(client.describe(fleet, view=DescribeView.FULL)),
            "instances": [_plain(instance) for instance in client.list_instances(fleet)],
            "allocations": [_plain(allocation) for allocation in client.list_allocations(fleet)],
            "events": [_plain(event) for event in client.list_events(fleet)],
            "clean": client.verify(fleet).clean,
        }
    seen["gone"] = {"events": [_plain(event) for event in client.list_events("gone")]}
    return seen


def _plain(value: Any) -> Any:
    plain: Any = json.loads(json.dumps(dataclasses.asdict(value), default=str))
    plain.pop("server_time", None)
    return plain
