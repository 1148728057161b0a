"""Requests drawn at random: mostly sensible, about few names, so that they meet each other often."""

from random import Random
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2 as admin_pb
from blockyard.v1 import resources_pb2
from tests.property.model_records import Allocation, Fleet

FLEETS: Final = ["gpu"] * 12 + ["cpu.2"] * 3 + ["ghost"]
INSTANCES: Final = ["n1", "n_1", "nx1", "n.1", "n-1", "node-6"]
"""Alike to whoever takes `_` or `.` for a wildcard."""
HOLDERS: Final = ["job-1", "job-2", 'jöb "3" %_\\']
CALLERS: Final = [None, None, None, "default", "other"]
"""None and `default` are the same caller."""
LABELS: Final = {"zone": ["a", "b", ""], "kind": ["x", "y"], "host/name": ["h%1", "h_1"]}
STRATEGIES: Final = ["FIRST_FIT", "BEST_FIT", "WORST_FIT"]
OPERATORS: Final = ["IN", "NOT_IN", "EXISTS", "DOES_NOT_EXIST"]
STATES: Final = ["ACTIVE", "CORDONED", "OFFLINE"]
TTLS: Final = [100_000, 1_000_000, 1_234_567, 5_000_000, 30_000_000, 300_000_000, 366 * 86_400_000_000]
"""Microseconds: the least, the most, some between."""
TOTALS: Final = [1, 2, 4, 8, 8, 8, 12, 70]
MEANT_UNCHANGED: Final = 0.7
"""How often a field that may be left out is left out."""


def fleet_name(r: Random) -> str:
    """A fleet, now and then one that never is."""
    return f"fleets/{r.choice(FLEETS)}"


def instance_name(r: Random, fleet: str) -> str:
    """An instance of a fleet, there or not."""
    return f"{fleet}/instances/{r.choice(INSTANCES)}"


def allocation_name(r: Random, fleet: Fleet | None, name: str) -> str:
    """An allocation of a fleet: mostly a recent one, now and then one that never was."""
    if fleet is None or not fleet.allocations or r.randrange(20) == 0:
        return f"{name}/allocations/{r.choice([1, 999_999, 2**63 - 1])}"
    return recent(r, list(fleet.allocations.values())).name


def recent(r: Random, allocations: list[Allocation]) -> Allocation:
    """Mostly one of the last that are held, else any."""
    held = [allocation for allocation in allocations if allocation.state == "HELD"]
    return r.choice(held[-8:] if held and r.randrange(4) else allocations[-12:])


def duration(microseconds: int) -> Duration:
    """As the API takes it."""
    return Duration(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def labels(r: Random) -> dict[str, str]:
    """Some labels."""
    return {key: r.choice(values) for key, values in LABELS.items() if r.randrange(2)}


def fleet_fields(r: Random, **fields: Any) -> resources_pb2.Fleet:
    """A fleet with some of its fields set."""
    if r.random() > MEANT_UNCHANGED:
        fields["labels"] = labels(r)
    if r.random() > MEANT_UNCHANGED:
        fields["default_placement_strategy"] = r.choice(STRATEGIES)
    if r.random() > MEANT_UNCHANGED:
        fields["default_ttl"] = duration(r.choice(TTLS))
    if r.random() > MEANT_UNCHANGED:
        fields["max_ttl"] = duration(r.choice(TTLS))
    return resources_pb2.Fleet(**fields)


def instance_fields(r: Random, **fields: Any) -> resources_pb2.Instance:
    """An instance with some of its fields set."""
    if r.randrange(2):
        fields["labels"] = labels(r)
    if r.randrange(2):
        fields["resources"] = {"gpu": r.choice([0, 7, 8]), "memory_mib": r.choice([1, 1000, 2**62])}
    if r.randrange(6) == 0:
        fields["state"] = r.choice(STATES)
    return resources_pb2.Instance(**fields)


def mask(r: Random, names: list[str]) -> FieldMask | None:
    """No mask, all of it, or some fields."""
    some = [name for name in names if r.randrange(2)]
    paths = r.choice([[], [], some, ["*"]])
    return FieldMask(paths=paths) if paths else None


def etag(r: Random, changed: int) -> str | None:
    """No guard, the right one, or one of an earlier time."""
    return r.choice([None, None, None, f"r{changed}", f"r{max(changed - 1, 1)}"])


def demand(r: Random, fleet: str) -> pb.Demand:
    """One demand of any form."""
    fields: dict[str, Any] = {"instances": r.choice([0, 0, 1, 1, 2, 2, 3])}
    form = r.choice(["blocks", "blocks", "blocks", "requirements", "exclusive", "at least"])
    if form in {"blocks", "at least"}:
        fields["blocks"] = r.choice([1, 1, 2, 2, 3, 4, 7, 65, 100])
    if form in {"exclusive", "at least"}:
        fields["exclusive"] = True
    if form == "requirements":
        fields["requirements"] = {"gpu": r.choice([1, 2, 5, 8])}
        if r.randrange(2):
            fields["requirements"]["memory_mib"] = r.choice([1, 250, 333, 1000, 2**61])
    if r.randrange(3) == 0:
        fields["selector"] = selector(r)
    if r.randrange(4) == 0:
        fields["instance_names"] = [instance_name(r, fleet) for _ in range(r.choice([1, 2, 4]))]
    return pb.Demand(**fields)


def selector(r: Random) -> pb.LabelSelector:
    """A selector of any form, also an empty one."""
    wanted = {"zone": r.choice(LABELS["zone"])} if r.randrange(2) else {}
    expressions = []
    for _ in range(r.choice([0, 1, 1, 2])):
        key, operator = r.choice([*LABELS, "absent"]), r.choice(OPERATORS)
        values = r.choices(LABELS.get(key, ["a"]), k=2) if operator in {"IN", "NOT_IN"} else []
        expressions.append(pb.LabelExpression(key=key, operator=operator, values=values))  # type: ignore[arg-type]  # protobuf takes an enum's name too
    return pb.LabelSelector(match_labels=wanted, match_expressions=expressions)


def acquire(r: Random, fleet: str, token: str, *, plain: bool = False) -> pb.AcquireRequest:
    """An Acquire: a plain one asks for a few blocks of one instance, any other for anything."""
    fields: dict[str, Any] = {"fleet": fleet, "idempotency_token": token, "holder": r.choice(HOLDERS)}
    if plain:
        fields["demands"] = [pb.Demand(blocks=r.choice([1, 1, 2, 2, 3]))]
    else:
        fields["demands"] = [demand(r, fleet) for _ in range(r.choice([1, 1, 2, 3]))]
        fields["validate_only"] = r.randrange(8) == 0
        if r.randrange(3) == 0:
            fields["annotations"] = {"why": r.choice(["", "tab\there", "é"]), "a/b": "c"}
    if r.randrange(2):
        fields["placement_strategy"] = r.choice(STRATEGIES)
    if r.randrange(2):
        fields["ttl"] = duration(r.choice(TTLS))
    return pb.AcquireRequest(**fields)


def altered(r: Random, request: pb.AcquireRequest) -> pb.AcquireRequest:
    """The request with something changed that means something, or that means nothing."""
    other = pb.AcquireRequest()
    other.CopyFrom(request)
    for change in r.sample(["holder", "demands", "strategy", "ttl", "annotations", "validate", "defaults"], k=2):
        match change:
            case "holder":
                other.holder = r.choice(HOLDERS)
            case "demands":
                other.demands.append(demand(r, request.fleet))
            case "strategy":
                other.placement_strategy = r.choice([0, 1, 2, 3])  # type: ignore[assignment]  # an enum's number
            case "ttl":
                other.ttl.CopyFrom(duration(r.choice(TTLS)))
            case "annotations":
                other.annotations["more"] = r.choice(["1", "2"])
            case "validate":
                other.validate_only = not other.validate_only
            case _:
                _say_otherwise(other)
    return other


def _say_otherwise(request: pb.AcquireRequest) -> None:
    """The same request in other words."""
    for one in request.demands:
        one.instances = one.instances or 1
        names = [*reversed(one.instance_names), *one.instance_names[:1]]
        del one.instance_names[:]
        one.instance_names.extend(names)
        for key, value in list(one.selector.match_labels.items()):
            one.selector.match_expressions.add(key=key, operator=pb.LabelExpression.IN, values=[value])


def release(r: Random, fleet: Fleet | None, name: str, tokens: list[str]) -> pb.ReleaseRequest:
    """A Release by name or token, of all or of some blocks, with guards right or wrong."""
    fields: dict[str, Any] = {}
    if r.randrange(4) == 0:
        fields["fleet"] = name
        fields["idempotency_token"] = r.choice([*tokens[-12:], f"early-{r.randrange(30)}"])
    else:
        fields["name"] = allocation_name(r, fleet, name)
        fields["fleet"] = r.choice(["", name])
        if r.randrange(2) and fleet is not None:
            fields["placements"] = _some_blocks(r, fleet, fields["name"], name)
    if r.randrange(6) == 0:
        fields["holder"] = r.choice(HOLDERS)
    if r.randrange(6) == 0:
        fields["fencing_token"] = r.choice([int(fields.get("name", "/1").split("/")[-1]), 1])
    return pb.ReleaseRequest(**fields)


def _some_blocks(r: Random, fleet: Fleet, allocation: str, name: str) -> list[resources_pb2.Placement]:
    granted = fleet.allocations.get(int(allocation.rsplit("/", maxsplit=1)[-1]))
    if granted is None or r.randrange(10) == 0:
        return [resources_pb2.Placement(instance=instance_name(r, name), blocks=[r.choice([0, 1, 4095])])]
    return [
        resources_pb2.Placement(
            instance=f"{name}/instances/{instance}", blocks=r.sample(blocks, k=r.randrange(len(blocks)) + 1)
        )
        for instance, blocks in granted.granted.items()
        if len(granted.granted) == 1 or r.randrange(2)
    ]


def renew(r: Random, fleet: Fleet | None, name: str) -> pb.RenewRequest:
    """A Renew, mostly of a lease, with guards right or wrong."""
    fields: dict[str, Any] = {"name": allocation_name(r, fleet, name)}
    leased = [] if fleet is None else [a.name for a in fleet.live() if a.expire_time is not None]
    if leased and r.randrange(3):
        fields["name"] = r.choice(leased)
    if r.randrange(2):
        fields["ttl"] = duration(r.choice(TTLS))
    if r.randrange(6) == 0:
        fields["holder"] = r.choice(HOLDERS)
    if r.randrange(6) == 0:
        fields["fencing_token"] = r.choice([int(fields["name"].split("/")[-1]), 1])
    return pb.RenewRequest(**fields)


def create_instance(r: Random, fleet: str, instance: str) -> admin_pb.CreateInstanceRequest:
    """A registration, also of an instance that is there."""
    return admin_pb.CreateInstanceRequest(
        parent=fleet, instance_id=instance, instance=instance_fields(r, total_blocks=r.choice(TOTALS))
    )
