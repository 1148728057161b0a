"""What the calls for operators send, and what they make of the answers."""

from datetime import datetime, timedelta

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import ParseDict

from blockyard import (
    UNSET,
    Check,
    Client,
    Correction,
    CorrectionKind,
    Discrepancy,
    EventKind,
    Identity,
    InstanceState,
    Permission,
    Placement,
    PlacementStrategy,
    RoleGrant,
)
from blockyard.v1 import access_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2
from tests.sdk.fake_server import FakeServer
from tests.sdk.samples import ALLOCATION, FLEET, NAME, NODE, TIME, sent


def test_a_fleet_is_created_read_and_listed(fake: FakeServer, client: Client) -> None:
    fleet = ParseDict(FLEET, resources_pb2.Fleet())
    fake.answers("CreateFleet", fleet)
    fake.answers("GetFleet", fleet)
    fake.answers("ListFleets", fleet_admin_pb2.ListFleetsResponse(fleets=[fleet]))
    created = client.create_fleet("gpu", labels={"a": "b"}, default_ttl=30, max_ttl=timedelta(minutes=1))
    assert created.id == "gpu"
    assert created.default_placement_strategy == PlacementStrategy.WORST_FIT
    assert created.default_ttl is None
    assert created.max_ttl == timedelta(minutes=1)
    assert client.get_fleet("fleets/gpu") == created
    assert list(client.list_fleets()) == [created]
    assert sent(fake, "CreateFleet") == {
        "fleetId": "gpu",
        "fleet": {"labels": {"a": "b"}, "defaultTtl": "30s", "maxTtl": "60s"},
    }


def test_an_update_sends_only_what_is_given(fake: FakeServer, client: Client) -> None:
    fake.answers("UpdateFleet", ParseDict(FLEET, resources_pb2.Fleet()))
    client.update_fleet("gpu", max_ttl=60, default_ttl=None, labels=UNSET, etag="e-1")
    assert sent(fake, "UpdateFleet") == {
        "fleet": {"name": "fleets/gpu", "maxTtl": "60s", "etag": "e-1"},
        "updateMask": "defaultTtl,maxTtl",
    }
    fake.answers("UpdateInstance", ParseDict(NODE, resources_pb2.Instance()))
    client.update_instance("gpu", "node-1", labels={}, state=InstanceState.OFFLINE)
    assert sent(fake, "UpdateInstance") == {
        "instance": {"name": "fleets/gpu/instances/node-1", "state": "OFFLINE"},
        "updateMask": "labels,state",
    }


def test_an_update_of_nothing_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="give at least one of total_blocks, labels, resources, state"):
        client.update_instance("gpu", "node-1", etag="e-1")


def test_an_instance_is_registered_cordoned_and_removed(fake: FakeServer, client: Client) -> None:
    node = ParseDict(NODE, resources_pb2.Instance())
    for method in ("CreateInstance", "GetInstance", "CordonInstance", "UncordonInstance"):
        fake.answers(method, node)
    fake.answers("ListInstances", fleet_admin_pb2.ListInstancesResponse(instances=[node]))
    fake.answers("DeleteInstance", Empty())
    created = client.create_instance("gpu", "node-1", total_blocks=8, resources={"gpu": 8})
    assert (created.fleet, created.id, created.state) == ("gpu", "node-1", InstanceState.CORDONED)
    assert sent(fake, "CreateInstance") == {
        "parent": "fleets/gpu",
        "instanceId": "node-1",
        "instance": {"totalBlocks": 8, "resources": {"gpu": "8"}},
    }
    assert client.get_instance("gpu", "node-1") == created
    assert list(client.list_instances("gpu")) == [created]
    assert client.cordon_instance("gpu", "node-1", etag="e-1") == created
    assert sent(fake, "CordonInstance") == {"name": "fleets/gpu/instances/node-1", "etag": "e-1"}
    assert client.uncordon_instance("gpu", "node-1") == created
    client.delete_instance("gpu", "node-1", etag="e-1")
    assert sent(fake, "DeleteInstance") == {"name": "fleets/gpu/instances/node-1", "etag": "e-1"}


def test_a_fleet_is_deleted(fake: FakeServer, client: Client) -> None:
    fake.answers("DeleteFleet", Empty())
    client.delete_fleet("gpu", force=True)
    assert sent(fake, "DeleteFleet") == {"name": "fleets/gpu", "force": True}


def test_events_are_listed_with_their_kinds(fake: FakeServer, client: Client) -> None:
    events = [
        {"revision": "1", "time": TIME, "kind": "FLEET_CREATED", "fleet": FLEET},
        {"revision": "2", "time": TIME, "kind": "GRANTED", "allocation": NAME, "placements": ALLOCATION["placements"]},
        {"revision": "3", "time": TIME, "kind": 99},
    ]
    fake.answers("ListEvents", ParseDict({"events": events}, ledger_pb2.ListEventsResponse()))
    kinds = [EventKind.GRANTED, EventKind.FLEET_CREATED]
    made, granted, newer = client.list_events("gpu", from_revision=1, kinds=kinds, instance="node-1", holder="train")
    assert made.fleet is not None
    assert made.fleet.id == "gpu"
    assert (granted.allocation, granted.holder, granted.fleet) == (NAME, None, None)
    assert granted.placements == (Placement("node-1", (2, 3)),)
    assert newer.kind == EventKind.UNKNOWN
    assert sent(fake, "ListEvents") == {
        "parent": "fleets/gpu",
        "fromRevision": "1",
        "kinds": ["GRANTED", "FLEET_CREATED"],
        "instance": "fleets/gpu/instances/node-1",
        "holder": "train",
        "pageSize": 1000,
    }


def test_a_report_names_each_difference(fake: FakeServer, client: Client) -> None:
    document = {
        "revision": "9",
        "discrepancies": [
            {"check": "COUNTER", "instance": "fleets/gpu/instances/node-1", "expected": "2", "actual": "-4"}
        ],
        "instancesChecked": "1",
    }
    fake.answers("Verify", ParseDict(document, ledger_pb2.VerifyResponse()))
    report = client.verify("gpu")
    assert not report.clean
    assert report.discrepancies == (Discrepancy(Check.COUNTER, "node-1", None, "2", "-4"),)


def test_a_repair_says_each_change_and_what_is_left(fake: FakeServer, client: Client) -> None:
    document = {
        "applied": True,
        "revision": "9",
        "corrections": [
            {"kind": "COUNTER_SET", "instance": "fleets/gpu/instances/node-1", "before": "5", "after": "2"},
            {"kind": "BLOCK_HELD", "instance": "fleets/gpu/instances/node-1", "allocation": NAME, "block": 3},
            {"kind": 99},
        ],
        "unrepaired": [{"check": "HELD_BLOCKS", "allocation": NAME, "expected": "one", "actual": "two"}],
        "halted": True,
    }
    fake.answers("Repair", ParseDict(document, ledger_pb2.RepairResponse()))

    report = client.repair("gpu", apply=True)

    assert report.corrections == (
        correction(CorrectionKind.COUNTER_SET, instance="node-1", before=5, after=2),
        correction(CorrectionKind.BLOCK_HELD, instance="node-1", allocation=NAME, block=3),
        correction(CorrectionKind.UNKNOWN),
    )
    assert report.unrepaired == (Discrepancy(Check.HELD_BLOCKS, None, NAME, "one", "two"),)
    assert (report.applied, report.revision, report.truncated, report.halted) == (True, 9, False, True)
    assert sent(fake, "Repair") == {"fleet": "fleets/gpu", "apply": True}


def correction(
    kind: CorrectionKind,
    *,
    instance: str | None = None,
    allocation: str | None = None,
    block: int = 0,
    before: int = 0,
    after: int = 0,
) -> Correction:
    return Correction(kind=kind, instance=instance, allocation=allocation, block=block, before=before, after=after)


def test_the_kind_that_only_an_answer_may_be_is_refused_as_an_argument(client: Client) -> None:
    with pytest.raises(ValueError, match="UNKNOWN is not a kind of event"):
        list(client.list_events("gpu", kinds=[EventKind.UNKNOWN]))


def test_who_i_am_and_what_i_may(fake: FakeServer, client: Client) -> None:
    answer = access_pb2.WhoAmIResponse(principal="sched-a", tenant="train", via="token:k3v9")
    answer.grants.add(role="scheduler", fleets=["train-*"])
    fake.answers("WhoAmI", answer)
    fake.answers("CanI", access_pb2.CanIResponse(permitted=True))

    assert client.who_am_i() == Identity(
        principal="sched-a",
        tenant="train",
        via="token:k3v9",
        grants=(RoleGrant("scheduler", ("train-*",)),),
        expire_time=None,
    )
    assert client.can_i(Permission.READ_HOLDERS, "gpu") is True
    assert sent(fake, "CanI") == {"permission": "READ_HOLDERS", "fleet": "fleets/gpu"}
    answer.expire_time.FromJsonString(TIME)
    assert client.who_am_i().expire_time == datetime.fromisoformat(TIME)


def test_the_sdk_has_every_permission() -> None:
    named = {name for name, number in access_pb2.Permission.items() if number}

    assert {str(permission) for permission in Permission} == named


def test_what_is_no_permission_is_refused(fake: FakeServer, client: Client) -> None:
    with pytest.raises(ValueError, match="everything"):
        client.can_i("everything", "gpu")  # type: ignore[arg-type]  # what a caller without types may do
    assert fake.seen == []
