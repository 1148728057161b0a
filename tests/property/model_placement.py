"""Which blocks a request gets, found the naive way: look at everything, every time."""

from tests.property.model_records import Fleet, Instance, Refusal
from tests.property.plain import Plain


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
    for number, demand in enumerate(demands):
        fitting = sum(_matches(demand, i) and _needed(demand, i) is not None for i in fleet.instances.values())
        if fitting < demand["instances"]:
            raise Refusal(
                "UNSATISFIABLE", demand=number, instances_needed=demand["instances"], instances_fitting=fitting
            )
    taken: dict[str, list[int]] = {}
    exclusive: list[str] = []
    for number, demand in enumerate(demands):
        chosen: dict[str, list[int]] = {}
        while len(chosen) < demand["instances"]:
            candidates = [
                (instance, idle)
                for instance in fleet.instances.values()
                if instance.instance not in chosen and instance.acquirable and _matches(demand, instance)
                for idle in [_idle(instance, taken)]
                if _has_room(demand, instance, idle)
            ]
            if not candidates:
                raise Refusal(
                    "NO_CAPACITY",
                    demand=number,
                    instances_needed=demand["instances"],
                    instances_found=len(chosen),
                    idle_blocks=sum(len(_idle(i, taken)) for i in fleet.instances.values()),
                )
            instance, idle = min(candidates, key=lambda candidate: _rank(strategy, *candidate))
            chosen[instance.instance] = _choose_blocks(idle, _needed(demand, instance) or 0)
        for name, blocks in chosen.items():
            taken[name] = sorted(taken.get(name, []) + blocks)
        exclusive += list(chosen) if demand["exclusive"] else []
    return taken, exclusive


def _idle(instance: Instance, taken: dict[str, list[int]]) -> list[int]:
    return [block for block in instance.acquirable if block not in taken.get(instance.instance, [])]


def _matches(demand: Plain, instance: Instance) -> bool:
    if demand["names"] and instance.instance not in demand["names"]:
        return False
    for key, operator, values in demand["terms"]:
        there, value = key in instance.labels, instance.labels.get(key)
        holds = {
            "IN": there and value in values,
            "NOT_IN": not there or value not in values,
            "EXISTS": there,
            "DOES_NOT_EXIST": not there,
        }
        if not holds[operator]:
            return False
    return True


def _needed(demand: Plain, instance: Instance) -> int | None:
    """How many blocks the demand takes on this instance; None if it never fits."""
    total = instance.total_blocks
    if demand["exclusive"]:
        return total if total >= demand["blocks"] else None
    if not demand["requirements"]:
        return demand["blocks"] if demand["blocks"] <= total else None
    for count in range(1, total + 1):
        if all(
            instance.resources.get(name, 0) * count >= quantity * total
            for name, quantity in demand["requirements"].items()
        ):
            return count
    return None


def _has_room(demand: Plain, instance: Instance, idle: list[int]) -> bool:
    needed = _needed(demand, instance)
    return needed is not None and len(idle) >= needed


def _rank(strategy: str, instance: Instance, idle: list[int]) -> tuple[int, int]:
    idle_first = {"FIRST_FIT": 0, "BEST_FIT": len(idle), "WORST_FIT": -len(idle)}
    return idle_first[strategy], instance.order


def _choose_blocks(idle: list[int], count: int) -> list[int]:
    runs: list[list[int]] = []
    for block in idle:
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    fitting = [run for run in runs if len(run) >= count]
    # `min` takes the first of the smallest, which is the lowest.
    return min(fitting, key=len)[:count] if fitting else idle[:count]
