"""Which blocks a request gets: the model's records as the oracle's plain types, and its answer as a refusal."""

from dataclasses import asdict

from tests.oracle import placement
from tests.property.model_records import Fleet, Instance, Refusal
from tests.property.plain import Plain

_REASONS = {placement.Unsatisfiable: "UNSATISFIABLE", placement.NoCapacity: "NO_CAPACITY"}


def meaning(request: Plain) -> Plain:
    """What an Acquire asks for, with defaults put in: what decides whether two requests are the same."""
    return {
        "holder": request.get("holder", ""),
        "demands": [_demand(demand) for demand in request.get("demands", [])],
        "placement_strategy": request.get("placement_strategy"),
        "ttl": request.get("ttl"),
        "annotations": request.get("annotations", {}),
    }


def _demand(demand: Plain) -> Plain:
    selector = demand.get("selector", {})
    terms = {(key, "IN", frozenset([value])) for key, value in selector.get("match_labels", {}).items()}
    for expression in selector.get("match_expressions", []):
        terms.add((expression["key"], expression["operator"], frozenset(expression.get("values", []))))
    return {
        "instances": demand.get("instances", 0) or 1,
        "blocks": demand.get("blocks", 0),
        "requirements": demand.get("requirements", {}),
        "exclusive": demand.get("exclusive", False),
        "terms": terms,
        "names": {name.split("/")[3] for name in demand.get("instance_names", [])},
    }


def place(fleet: Fleet, demands: list[Plain], strategy: str) -> tuple[dict[str, list[int]], list[str]]:
    """The blocks for all demands by instance, in the order chosen, and the instances that are taken exclusively.

    Or the refusal of the first that would not even fit an idle fleet, else of the first that cannot be met now.
    """
    instances = [_instance(each) for each in fleet.instances.values()]
    found = placement.place(instances, [_plain_demand(demand) for demand in demands], strategy)
    if not isinstance(found, placement.Placed):
        raise Refusal(_REASONS[type(found)], **asdict(found))
    return {name: placement.blocks_of(mask) for name, mask in found.blocks.items()}, list(found.exclusive)


def _instance(instance: Instance) -> placement.Instance[str]:
    return placement.Instance(
        instance.instance,
        instance.order,
        instance.total_blocks,
        placement.mask_of(instance.holders),
        instance.labels,
        instance.resources,
        active=instance.state == "ACTIVE",
        exclusive=instance.exclusive,
    )


def _plain_demand(demand: Plain) -> placement.Demand[str]:
    return placement.Demand(
        demand["instances"],
        demand["blocks"],
        demand["requirements"],
        demand["exclusive"],
        tuple(demand["terms"]),
        demand["names"],
    )
