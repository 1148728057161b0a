"""The real grpcurl goes through the whole API with nothing but the server's address."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockyard.reasons import REASONS, Reason
from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2
from tests.clients.every_error import BY_REASON, check_error
from tests.clients.grpcurl import GRPCURL, Grpcurl
from tests.clients.real_client import Json
from tests.clients.stage import Stage
from tests.harness.process import ServerProcess
from tests.harness.samples import some_at_first
from tests.protos.annotations import behaviors

PROTOS = Path(__file__).parents[2] / "protos"
SERVICES = {
    service.full_name: service
    for module in (access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}
STANDARD = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture
def grpcurl(server: ServerProcess) -> Iterator[Grpcurl]:
    with Grpcurl(server.address) as client:
        yield client


@pytest.fixture
def stage(grpcurl: Grpcurl, server: ServerProcess) -> Stage:
    """A fresh fleet with one idle 8-block instance."""
    stage = Stage(grpcurl, server)
    stage.build()
    return stage


def test_list_names_every_service_and_nothing_else(grpcurl: Grpcurl) -> None:
    assert set(grpcurl.run("list").stdout.split()) == {*SERVICES, *STANDARD}


@pytest.mark.parametrize("service", SERVICES)
def test_list_and_describe_show_every_method_of_a_service(grpcurl: Grpcurl, service: str) -> None:
    methods = SERVICES[service].methods
    described = grpcurl.run("describe", service).stdout

    assert grpcurl.run("list", service).stdout.split() == sorted(method.full_name for method in methods)
    for method in methods:
        answer = ("stream " if method.server_streaming else "") + f".{method.output_type.full_name}"
        assert f"rpc {method.name} ( .{method.input_type.full_name} ) returns ( {answer} );" in described


@pytest.mark.parametrize("service", some_at_first([*SERVICES], 1))
def test_describe_shows_every_message_that_a_service_speaks_of(grpcurl: Grpcurl, service: str) -> None:
    types = {
        kind.full_name: kind for method in SERVICES[service].methods for kind in (method.input_type, method.output_type)
    }

    for name, message in types.items():
        described = grpcurl.run("describe", name).stdout
        assert f"{name} is a message:" in described
        for field in message.fields:
            shown = re.search(rf" {field.name} = {field.number}( \[.*\])?;$", described, flags=re.MULTILINE)
            assert shown, (name, field.name)
            said = re.findall(r"field_behavior\) = (\w+)", shown[1] or "")
            assert set(said) == behaviors(field), (name, field.name)


def test_describe_knows_the_error_reasons_and_the_details_of_errors(grpcurl: Grpcurl) -> None:
    reasons = grpcurl.run("describe", "blockyard.v1.ErrorReason").stdout

    assert all(f"  {reason.value} = " in reasons for reason in REASONS)
    assert "string reason = 1;" in grpcurl.run("describe", "google.rpc.ErrorInfo").stdout


@pytest.mark.parametrize("file", ["access", "allocator", "fleet_admin", "ledger"])
def test_the_protos_of_the_repository_are_enough_without_reflection(grpcurl: Grpcurl, file: str) -> None:
    options = ("-import-path", str(PROTOS), "-proto", f"blockyard/v1/{file}.proto")
    name = "blockyard.v1." + "".join(word.title() for word in file.split("_"))
    listed = subprocess.run([GRPCURL, *options, "list", name], capture_output=True, text=True, check=True).stdout
    refused = grpcurl.run("grpc.health.v1.Health/Check", options=options)

    assert listed.split() == sorted(method.full_name for method in SERVICES[name].methods)
    assert "Error invoking method" in refused.stderr  # it is in none of the files: nothing else is asked
    if file == "fleet_admin":
        called = grpcurl.run(f"{name}/ListFleets", options=options)
        assert (called.returncode, called.stderr) == (0, "")


def test_health_says_serving_for_the_server_and_for_every_service(grpcurl: Grpcurl) -> None:
    for service in ("", *SERVICES):
        assert grpcurl.invoke("grpc.health.v1.Health/Check", {"service": service}) == {"status": "SERVING"}


def test_blocks_are_acquired_asked_for_again_shown_renewed_and_released(grpcurl: Grpcurl, stage: Stage) -> None:
    wanted = stage.acquiring(6, ttl="600s", annotations={"team": "vision"})
    grant = grpcurl.call("Allocator/Acquire", wanted)
    allocation = grant["allocation"]
    assert allocation["placements"] == [{"instance": stage.instance, "blocks": list(range(6))}]
    assert allocation["name"] == f"{stage.fleet}/allocations/{allocation['fencing_token']}"

    again = grpcurl.call("Allocator/Acquire", wanted)
    assert (again["replayed"], again["allocation"], again["revision"]) == (True, allocation, grant["revision"])

    basic = grpcurl.call("Allocator/Describe", {"fleet": stage.fleet})
    assert basic["totals"] == {
        "instances": "1",
        "total_blocks": "8",
        "busy_blocks": "6",
        "idle_blocks": "2",
        "acquirable_blocks": "2",
    }
    (shown,) = basic["instances"]
    assert (shown["busy_blocks"], shown["idle_blocks"], "holds" in shown) == (6, 2, False)
    full = grpcurl.call("Allocator/Describe", {"fleet": stage.fleet, "view": "FULL"})
    hold = {"allocation": allocation["name"], "holder": "train", "blocks": list(range(6))}
    assert full["instances"] == [{**shown, "holds": [hold]}]

    renewed = grpcurl.call("Allocator/Renew", {"name": allocation["name"], "ttl": "3600s"})["allocation"]
    assert renewed["expire_time"] > allocation["expire_time"]

    by_name, by_token = (
        {"name": allocation["name"]},
        {"fleet": stage.fleet, "idempotency_token": wanted["idempotency_token"]},
    )
    outcomes = [grpcurl.call("Allocator/Release", target)["outcome"] for target in (by_name, by_token, by_name)]
    assert outcomes == ["RELEASED", "ALREADY_RELEASED", "ALREADY_RELEASED"]
    assert idle_blocks(stage) == "8"


def test_a_token_alone_releases_what_it_was_granted(grpcurl: Grpcurl, stage: Stage) -> None:
    stage.acquire(2, idempotency_token="mine")
    released = grpcurl.call("Allocator/Release", {"fleet": stage.fleet, "idempotency_token": "mine"})

    assert (released["outcome"], released["allocation"]["state"]) == ("RELEASED", "RELEASED")
    assert idle_blocks(stage) == "8"


def test_a_caller_in_the_metadata_has_tokens_of_its_own(grpcurl: Grpcurl, stage: Stage) -> None:
    wanted = stage.acquiring(1)
    names = {
        grpcurl.invoke(
            "blockyard.v1.Allocator/Acquire", wanted, options=("-rpc-header", f"blockyard-caller: {caller}")
        )["allocation"]["name"]
        for caller in ("a", "b", "a")
    }

    assert len(names) == 2


def test_a_batch_has_an_outcome_for_each_operation_errors_among_them(grpcurl: Grpcurl, stage: Stage) -> None:
    held = stage.acquire(1, ttl="60s")["name"]
    operations = [
        {"acquire": stage.acquiring(6)},
        {"acquire": stage.acquiring(6)},
        {"renew": {"name": held}},
        {"release": {"name": held}},
    ]
    acquired, refused, renewed, released = grpcurl.call("Allocator/Batch", {"operations": operations})["results"]

    assert acquired["acquire"]["allocation"]["placements"] == [
        {"instance": stage.instance, "blocks": list(range(1, 7))}
    ]
    (info, *_) = refused["error"]["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["metadata"]["idle_blocks"]) == ("NO_CAPACITY", "1")
    assert renewed["renew"]["allocation"]["name"] == held
    assert released["release"]["outcome"] == "RELEASED"


def test_the_journal_tells_what_happened_and_verify_finds_it_true(grpcurl: Grpcurl, stage: Stage) -> None:
    name = stage.acquire(2)["name"]
    grpcurl.call("Allocator/Release", {"name": name})
    events = grpcurl.call("Ledger/ListEvents", {"parent": stage.fleet})["events"]

    assert [(event["revision"], event["kind"]) for event in events] == [
        ("1", "FLEET_CREATED"),
        ("2", "INSTANCE_CREATED"),
        ("3", "GRANTED"),
        ("4", "RELEASED"),
    ]
    assert events[3]["allocation"] == name
    report = grpcurl.call("Ledger/Verify", {"fleet": stage.fleet})
    assert (report["clean"], report["revision"], report["events_replayed"]) == (True, "4", "4")
    assert "discrepancies" not in report


def test_a_watch_shows_each_change_as_it_is_made(grpcurl: Grpcurl, stage: Stage) -> None:
    watch = grpcurl.watch({"fleet": stage.fleet, "kinds": ["GRANTED"], "holder": "train"})
    begin = watch.next()
    allocation = stage.acquire(3)
    told = watch.next()
    watch.close()

    assert begin["revision"] == "2"
    assert "events" not in begin
    [event] = told["events"]
    assert (event["allocation"], event["kind"], event["holder"]) == (allocation["name"], "GRANTED", "train")
    assert event["placements"] == allocation["placements"]


def test_an_operator_lists_changes_cordons_and_deletes(grpcurl: Grpcurl, stage: Stage) -> None:
    assert grpcurl.call("FleetAdmin/CordonInstance", {"name": stage.instance})["state"] == "CORDONED"
    assert grpcurl.call("FleetAdmin/UncordonInstance", {"name": stage.instance})["state"] == "ACTIVE"
    change = {"instance": {"name": stage.instance, "total_blocks": 12}, "update_mask": {"paths": ["total_blocks"]}}
    assert grpcurl.call("FleetAdmin/UpdateInstance", change)["idle_blocks"] == 12
    assert names(grpcurl.call("FleetAdmin/ListInstances", {"parent": stage.fleet})["instances"]) == [stage.instance]
    assert stage.fleet in names(grpcurl.call("FleetAdmin/ListFleets", {"page_size": 1000})["fleets"])
    assert grpcurl.call("FleetAdmin/DeleteInstance", {"name": stage.instance}) == {}
    assert grpcurl.call("FleetAdmin/DeleteFleet", {"name": stage.fleet}) == {}
    assert stage.refused("FleetAdmin/GetFleet", name=stage.fleet).reason == "FLEET_NOT_FOUND"


def test_an_unknown_field_is_refused_by_the_client_itself(grpcurl: Grpcurl) -> None:
    done = grpcurl.run("blockyard.v1.Allocator/Describe", options=("-d", '{"flet": "fleets/a"}'))

    assert done.returncode == 1
    assert "no known field named flet" in done.stderr


@pytest.mark.parametrize("reason", some_at_first([*BY_REASON], 6))
def test_every_error_is_shown_with_its_reason_and_details(
    reason: Reason, server: ServerProcess, tmp_path: Path
) -> None:
    check_error(reason, Grpcurl, server, tmp_path)


def idle_blocks(stage: Stage) -> str:
    totals: dict[str, str] = stage.client.call("Allocator/Describe", {"fleet": stage.fleet})["totals"]
    return totals["idle_blocks"]


def names(resources: list[Json]) -> list[str]:
    return [resource["name"] for resource in resources]
