"""Requests become canonical domain values, or a refusal that names every bad field at once."""

from typing import Any

import pytest

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2, resources_pb2
from blockyard_server.domain.errors import InvalidRequest
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    Demand,
    FleetFields,
    InstanceFields,
    InstanceState,
    PlacementStrategy,
    Release,
    Renew,
    Term,
    UpdateFleet,
    UpdateInstance,
)
from blockyard_server.rpc.decode_allocator import decode_acquire, decode_operations, decode_release, decode_renew
from blockyard_server.rpc.decode_fleet_admin import (
    decode_create_fleet,
    decode_create_instance,
    decode_update_fleet,
    decode_update_instance,
)
from blockyard_server.rpc.page_tokens import decode_id_token, decode_number_token, encode_page_token
from tests.rpc.wire import acquire_request

LabelExpression = pb.LabelExpression


def fields_of(decode: Any, *arguments: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        decode(*arguments)
    return [field for field, _ in caught.value.violations]


def test_an_acquire_with_every_field() -> None:
    request = pb.AcquireRequest(
        fleet="fleets/gpu",
        idempotency_token="token-1",
        holder="job 1, Zürich",
        placement_strategy=resources_pb2.FIRST_FIT,
        annotations={"z": "1", "a": "two\nlines\tand a tab"},
        validate_only=True,
        demands=[
            pb.Demand(instances=2, blocks=3),
            pb.Demand(requirements={"memory_mib": 65536, "gpu": 2}),
            pb.Demand(exclusive=True, instance_names=["fleets/gpu/instances/b", "fleets/gpu/instances/a"] * 2),
            pb.Demand(exclusive=True, blocks=4),
        ],
    )
    request.ttl.seconds, request.ttl.nanos = 1, 500_000_999

    assert decode_acquire(request, "me") == Acquire(
        fleet="gpu",
        caller="me",
        token="token-1",
        holder="job 1, Zürich",
        demands=(
            Demand(instances=2, blocks=3),
            Demand(requirements=(("gpu", 2), ("memory_mib", 65536))),
            Demand(exclusive=True, instance_names=("a", "b")),
            Demand(exclusive=True, blocks=4),
        ),
        strategy=PlacementStrategy.FIRST_FIT,
        ttl_us=1_500_000,
        annotations={"a": "two\nlines\tand a tab", "z": "1"},
        validate_only=True,
    )


MISLEADING = ["\u202e", "\u202a", "\u2066", "\u2069", "\u200b", "\u2028", "\ufeff", "\xad", "\U000e0041"]


@pytest.mark.parametrize("character", MISLEADING, ids=ascii)
def test_a_new_holder_has_no_character_that_makes_it_look_like_another_one(character: str) -> None:
    request = acquire_request()
    request.holder = f"job{character}7"

    assert fields_of(decode_acquire, request, "default") == ["holder"]
    # What an earlier release has granted can still be named, to find it or to release it.
    release = pb.ReleaseRequest(name="fleets/gpu/allocations/7", holder=request.holder)
    assert decode_release(release, "default").holder == request.holder


@pytest.mark.parametrize("holder", ["Zürich", "東京", "\u0645\u06cc\u200c\u062e", "👩\u200d🔧", "אבג 7"])
def test_a_holder_may_be_written_in_any_script(holder: str) -> None:
    request = acquire_request()
    request.holder = holder

    assert decode_acquire(request, "default").holder == holder


def test_a_selector_has_one_form_however_it_is_written() -> None:
    written = pb.LabelSelector(
        match_labels={"gpu": "a100"},
        match_expressions=[
            LabelExpression(key="zone", operator=LabelExpression.NOT_IN, values=["b", "a", "b"]),
            LabelExpression(key="gpu", operator=LabelExpression.EXISTS),
            LabelExpression(key="spot", operator=LabelExpression.DOES_NOT_EXIST),
        ],
    )
    rewritten = pb.LabelSelector(
        match_expressions=[
            LabelExpression(key="spot", operator=LabelExpression.DOES_NOT_EXIST),
            LabelExpression(key="gpu", operator=LabelExpression.IN, values=["a100", "a100"]),
            LabelExpression(key="gpu", operator=LabelExpression.EXISTS),
            LabelExpression(key="gpu", operator=LabelExpression.EXISTS),
            LabelExpression(key="zone", operator=LabelExpression.NOT_IN, values=["a", "b"]),
        ]
    )

    one, other = (
        decode_acquire(
            pb.AcquireRequest(
                fleet="fleets/gpu",
                idempotency_token="t",
                holder="h",
                demands=[pb.Demand(blocks=1, selector=selector)],
            ),
            "me",
        )
        for selector in (written, rewritten)
    )

    assert one == other
    assert one.demands[0].selector == (
        Term("gpu", "EXISTS"),
        Term("gpu", "IN", ("a100",)),
        Term("spot", "DOES_NOT_EXIST"),
        Term("zone", "NOT_IN", ("a", "b")),
    )


def test_an_empty_selector_is_no_selector() -> None:
    request = acquire_request()
    request.demands[0].selector.SetInParent()

    assert decode_acquire(request, "me") == decode_acquire(acquire_request(), "me")


def test_everything_that_is_wrong_is_named_at_once() -> None:
    request = pb.AcquireRequest(
        fleet="fleets/GPU",
        holder="a\nb",
        placement_strategy=9,  # type: ignore[arg-type]  # what an unknown value is about
        annotations={"-": "x", "bell": "\a"},
        demands=[
            pb.Demand(instances=-1, blocks=5000),
            pb.Demand(),
            pb.Demand(blocks=1, requirements={"GPU": 1, "gpu": 0}, instance_names=["fleets/gpu/instances/", "x"]),
            pb.Demand(
                exclusive=True,
                selector=pb.LabelSelector(
                    match_labels={"ok": "é"},
                    match_expressions=[
                        LabelExpression(key="a", operator=LabelExpression.IN),
                        LabelExpression(key="", operator=LabelExpression.EXISTS, values=["x"]),
                        LabelExpression(key="a", operator=7),  # type: ignore[arg-type]  # what an unknown value is about
                        LabelExpression(key="a", operator=LabelExpression.NOT_IN, values=["ok", "\x7f"]),
                    ],
                ),
            ),
        ],
    )
    request.ttl.nanos = 1

    # Sorted: the entries of a map come in any order.
    named = sorted(fields_of(decode_acquire, request, "me"))
    assert named == sorted(
        [
            "fleet",
            "idempotency_token",
            "holder",
            "demands[0].instances",
            "demands[0].blocks",
            "demands[1].blocks",
            "demands[2].requirements",
            "demands[2].requirements[gpu]",
            "demands[2].requirements",
            "demands[2].instance_names[0]",
            "demands[2].instance_names[1]",
            "demands[3].selector.match_labels[ok]",
            "demands[3].selector.match_expressions[0].values",
            "demands[3].selector.match_expressions[1].key",
            "demands[3].selector.match_expressions[1].values",
            "demands[3].selector.match_expressions[2].operator",
            "demands[3].selector.match_expressions[3].values[1]",
            "placement_strategy",
            "ttl",
            "annotations",
            "annotations[bell]",
        ]
    )


def test_the_demands_of_a_request_are_bounded_all_together() -> None:
    request = acquire_request()
    del request.demands[:]
    request.demands.extend([pb.Demand(instances=500, blocks=1), pb.Demand(instances=500, exclusive=True)])
    assert len(decode_acquire(request, "me").demands) == 2

    request.demands.add(blocks=1)
    assert fields_of(decode_acquire, request, "me") == ["demands"]

    del request.demands[:]
    request.demands.extend([pb.Demand(instances=4, blocks=4096)])
    assert len(decode_acquire(request, "me").demands) == 1
    request.demands.add(blocks=1)
    assert fields_of(decode_acquire, request, "me") == ["demands"]


def test_an_instance_of_another_fleet_cannot_be_asked_for() -> None:
    request = acquire_request()
    request.demands[0].instance_names.append("fleets/cpu/instances/node-1")

    assert fields_of(decode_acquire, request, "me") == ["demands[0].instance_names[0]"]


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(0, 99_999_999), (-1, 0), (366 * 86400, 1000), (1, -1), (-1, 1), (1, 10**9), (2**63 - 1, 0), (-(2**63), -1)],
)
def test_a_ttl_out_of_its_limits_or_malformed_is_refused(seconds: int, nanos: int) -> None:
    request = pb.RenewRequest(name="fleets/gpu/allocations/7")
    request.ttl.seconds, request.ttl.nanos = seconds, nanos

    assert fields_of(decode_renew, request) == ["ttl"]


@pytest.mark.parametrize(
    ("seconds", "nanos", "ttl_us"), [(0, 100_000_000, 100_000), (366 * 86400, 999, 31622400000000)]
)
def test_the_shortest_and_the_longest_ttl_are_taken(seconds: int, nanos: int, ttl_us: int) -> None:
    request = pb.RenewRequest(name="fleets/gpu/allocations/7", holder="h", fencing_token=7)
    request.ttl.seconds, request.ttl.nanos = seconds, nanos

    assert decode_renew(request) == Renew("gpu", 7, ttl_us, "h", 7)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fleets/gpu",
        "fleets/gpu/allocations/",
        "fleets/gpu/allocations/0",
        "fleets/gpu/allocations/07",
        "fleets/gpu/allocations/-7",
        "fleets/gpu/allocations/+7",
        "fleets/gpu/allocations/7\n",
        "fleets/gpu/allocations/\u0667",
        "fleets/gpu/allocations/9223372036854775808",
        "fleets/gpu/allocations/99999999999999999999",
        "fleets//allocations/7",
        "fleets/gpu/instances/7",
        "/fleets/gpu/allocations/7",
        "fleets/gpu/allocations/7/",
    ],
)
def test_an_allocation_has_one_name_only(name: str) -> None:
    assert fields_of(decode_release, pb.ReleaseRequest(name=name), "me") == ["name"]
    assert fields_of(decode_renew, pb.RenewRequest(name=name)) == ["name"]


def test_the_last_possible_allocation_can_be_named() -> None:
    name = "fleets/gpu/allocations/9223372036854775807"

    assert decode_release(pb.ReleaseRequest(name=name), "me") == Release("gpu", "me", allocation=2**63 - 1)


def placement(instance: str, *blocks: int) -> resources_pb2.Placement:
    return resources_pb2.Placement(instance=f"fleets/gpu/instances/{instance}", blocks=blocks)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.ReleaseRequest(fleet="fleets/gpu"), ["target"]),
        (pb.ReleaseRequest(idempotency_token="t"), ["fleet"]),
        (pb.ReleaseRequest(name="fleets/gpu/allocations/7", fleet="fleets/cpu"), ["fleet"]),
        (
            pb.ReleaseRequest(idempotency_token="t", fleet="fleets/gpu", placements=[placement("a", 1)]),
            ["placements"],
        ),
        (pb.ReleaseRequest(name="fleets/gpu/allocations/7", placements=[placement("a")]), ["placements[0].blocks"]),
        (
            pb.ReleaseRequest(name="fleets/gpu/allocations/7", placements=[placement("a", 1, 1)]),
            ["placements[0].blocks"],
        ),
        (
            pb.ReleaseRequest(name="fleets/gpu/allocations/7", placements=[placement("a", 4096), placement("b", -1)]),
            ["placements[0].blocks", "placements[1].blocks"],
        ),
        (
            pb.ReleaseRequest(name="fleets/gpu/allocations/7", placements=[placement("a", 1), placement("a", 2)]),
            ["placements[1].instance"],
        ),
        (
            pb.ReleaseRequest(name="fleets/gpu/allocations/7", fencing_token=-1, holder="\n"),
            ["holder", "fencing_token"],
        ),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(request_: pb.ReleaseRequest, fields: list[str]) -> None:
    assert fields_of(decode_release, request_, "me") == fields


def test_a_release_by_token_names_its_fleet() -> None:
    request = pb.ReleaseRequest(idempotency_token="t", fleet="fleets/gpu")

    assert decode_release(request, "me") == Release("gpu", "me", token="t")


def test_a_batch_as_a_whole_is_bounded() -> None:
    assert fields_of(decode_operations, pb.BatchRequest(), "me") == ["operations"]
    one = pb.BatchOperation(acquire=acquire_request())
    assert len(decode_operations(pb.BatchRequest(operations=[one] * 1000), "me")) == 1000
    assert fields_of(decode_operations, pb.BatchRequest(operations=[one] * 1001), "me") == ["operations"]
    most = pb.BatchOperation(acquire=acquire_request(blocks=4096))
    assert len(decode_operations(pb.BatchRequest(operations=[most] * 4), "me")) == 4
    assert fields_of(decode_operations, pb.BatchRequest(operations=[most] * 4 + [one]), "me") == ["operations"]


def test_a_new_fleet_has_defaults_for_what_is_not_set() -> None:
    assert decode_create_fleet(fleet_admin_pb2.CreateFleetRequest(fleet_id="gpu")) == CreateFleet("gpu", FleetFields())


def test_a_new_instance_is_active_unless_it_says_otherwise() -> None:
    request = fleet_admin_pb2.CreateInstanceRequest(
        parent="fleets/gpu",
        instance_id="node-1",
        instance=resources_pb2.Instance(
            name="fleets/gpu/instances/node-1",
            total_blocks=8,
            labels={"b": "2", "a": ""},
            resources={"memory_mib": 0, "gpu": 8},
            busy_blocks=-3,  # output only
        ),
    )
    fields = InstanceFields(8, {"a": "", "b": "2"}, {"gpu": 8, "memory_mib": 0}, InstanceState.ACTIVE)

    assert decode_create_instance(request) == CreateInstance("gpu", "node-1", fields)


def test_a_name_in_the_body_must_agree_with_the_id() -> None:
    fleet = fleet_admin_pb2.CreateFleetRequest(fleet_id="gpu", fleet=resources_pb2.Fleet(name="fleets/cpu"))
    instance = fleet_admin_pb2.CreateInstanceRequest(
        parent="fleets/gpu",
        instance_id="a",
        instance=resources_pb2.Instance(name="fleets/gpu/instances/b", total_blocks=1),
    )

    assert fields_of(decode_create_fleet, fleet) == ["fleet.name"]
    assert fields_of(decode_create_instance, instance) == ["instance.name"]


def test_without_a_mask_an_update_changes_what_is_set() -> None:
    fleet = resources_pb2.Fleet(name="fleets/gpu", labels={"a": "1"}, etag="r3")
    fleet.max_ttl.seconds = 60
    instance = resources_pb2.Instance(name="fleets/gpu/instances/a", total_blocks=4, busy_blocks=9)

    assert decode_update_fleet(fleet_admin_pb2.UpdateFleetRequest(fleet=fleet)) == UpdateFleet(
        "gpu", {"labels": {"a": "1"}, "max_ttl_us": 60_000_000}, "r3"
    )
    assert decode_update_instance(fleet_admin_pb2.UpdateInstanceRequest(instance=instance)) == UpdateInstance(
        "gpu", "a", {"total_blocks": 4}
    )


def test_a_star_in_the_mask_is_every_field_that_can_be_changed() -> None:
    fleet = fleet_admin_pb2.UpdateFleetRequest(fleet=resources_pb2.Fleet(name="fleets/gpu"))
    fleet.update_mask.paths.append("*")

    assert decode_update_fleet(fleet).changes == {
        "labels": {},
        "default_placement_strategy": PlacementStrategy.BEST_FIT,
        "default_ttl_us": None,
        "max_ttl_us": None,
    }


@pytest.mark.parametrize("path", ["name", "etag", "revision", "label", "labels.a", "", "*,labels"])
def test_a_mask_names_only_what_can_be_changed(path: str) -> None:
    fleet = fleet_admin_pb2.UpdateFleetRequest(fleet=resources_pb2.Fleet(name="fleets/gpu"))
    fleet.update_mask.paths.append(path)

    assert fields_of(decode_update_fleet, fleet) == ["update_mask"]


@pytest.mark.parametrize(("path", "field"), [("state", "instance.state"), ("total_blocks", "instance.total_blocks")])
def test_a_mask_that_names_a_field_without_a_value_is_refused_where_there_is_no_default(path: str, field: str) -> None:
    instance = fleet_admin_pb2.UpdateInstanceRequest(instance=resources_pb2.Instance(name="fleets/gpu/instances/a"))
    instance.update_mask.paths.append(path)

    assert fields_of(decode_update_instance, instance) == [field]


def test_a_default_lease_longer_than_the_longest_is_refused() -> None:
    request = fleet_admin_pb2.CreateFleetRequest(fleet_id="gpu")
    request.fleet.default_ttl.seconds, request.fleet.max_ttl.seconds = 61, 60

    assert fields_of(decode_create_fleet, request) == ["fleet.default_ttl"]


def test_a_page_token_carries_its_cursor_to_its_own_list() -> None:
    scope = ("ListAllocations", "gpu", None, "HELD", None)
    bad: list[tuple[str, str]] = []

    assert decode_number_token(scope, encode_page_token(scope, 2**63 - 1), 0, bad) == 2**63 - 1
    assert decode_number_token(scope, "", 5, bad) == 5
    assert decode_id_token(("ListFleets",), encode_page_token(("ListFleets",), "gpu"), bad) == "gpu"
    assert encode_page_token(scope, None) == ""
    assert not bad


def test_a_page_token_of_another_list_or_of_nobody_is_refused() -> None:
    scope = ("ListAllocations", "gpu", None, "HELD", None)
    token = encode_page_token(scope, 7)
    others = [
        encode_page_token(("ListAllocations", "gpu", None, "RELEASED", None), 7),
        encode_page_token(scope, "gpu"),
        encode_page_token(scope, -7),
        encode_page_token(scope, 2**63),
        token[:-4],
        token + "=",
        token + "\n",
        token + "é",
        token.lower(),
        "x" * 5000,
        "====",
    ]
    for other in others:
        bad: list[tuple[str, str]] = []
        decode_number_token(scope, other, 0, bad)

        assert [field for field, _ in bad] == ["page_token"], other
