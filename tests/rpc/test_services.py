"""Every RPC once through a real server, as a client sees it."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2, ledger_pb2, resources_pb2
from blockyard_server.domain.answers import Check, Discrepancy
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.errors import NoCapacity
from blockyard_server.domain.requests import Acquire, Demand, Release
from tests.rpc.fake_service import FakeService
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

Instance = resources_pb2.Instance


async def test_six_blocks_are_acquired_described_and_released(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1")

    grants = [await blockyard.allocator.Acquire(acquire_request(f"token-{i}")) for i in range(6)]
    busy = await blockyard.allocator.Describe(pb.DescribeRequest(fleet="fleets/gpu", view=pb.FULL))
    for grant in grants:
        answer = await blockyard.allocator.Release(pb.ReleaseRequest(name=grant.allocation.name))
        assert answer.outcome == pb.ReleaseResponse.RELEASED
        again = await blockyard.allocator.Release(pb.ReleaseRequest(name=grant.allocation.name))
        assert again.outcome == pb.ReleaseResponse.ALREADY_RELEASED
    idle = await blockyard.allocator.Describe(pb.DescribeRequest(fleet="fleets/gpu"))

    assert (busy.totals.busy_blocks, busy.totals.idle_blocks) == (6, 2)
    assert [list(hold.blocks) for hold in busy.instances[0].holds] == [[0], [1], [2], [3], [4], [5]]
    assert (idle.totals.busy_blocks, idle.totals.idle_blocks) == (0, 8)
    assert not idle.instances[0].holds


async def test_a_grant_says_everything_about_the_allocation(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    request = acquire_request(blocks=3)
    request.ttl.FromMilliseconds(1500)
    request.annotations["run"] = "42"

    answer = await blockyard.allocator.Acquire(request)

    allocation = answer.allocation
    assert allocation.name == f"fleets/gpu/allocations/{allocation.fencing_token}"
    assert allocation.state == resources_pb2.Allocation.HELD
    assert [(p.instance, list(p.blocks)) for p in allocation.placements] == [("fleets/gpu/instances/node-1", [0, 1, 2])]
    assert allocation.grant_time.ToMicroseconds() == answer.server_time.ToMicroseconds() == service.now_us
    assert allocation.expire_time.ToMicroseconds() == service.now_us + 1_500_000
    assert allocation.ttl.ToMilliseconds() == 1500
    assert not allocation.HasField("end_time")
    assert dict(allocation.annotations) == {"run": "42"}
    assert (allocation.holder, allocation.idempotency_token) == ("job-1", "token-1")
    assert answer.revision == allocation.revision == allocation.fencing_token
    assert await blockyard.allocator.GetAllocation(pb.GetAllocationRequest(name=allocation.name)) == allocation


async def test_a_tried_allocation_has_no_name(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    request = acquire_request()
    request.validate_only = True

    answer = await blockyard.allocator.Acquire(request)

    assert answer.allocation.name == ""
    assert len(answer.allocation.placements) == 1


async def test_renew_extends_the_lease(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    request = acquire_request()
    request.ttl.FromSeconds(10)
    grant = await blockyard.allocator.Acquire(request)
    service.now_us += 5_000_000

    renewal = await blockyard.allocator.Renew(pb.RenewRequest(name=grant.allocation.name))

    assert renewal.allocation.expire_time.ToMicroseconds() == service.now_us + 10_000_000
    assert renewal.server_time.ToMicroseconds() == service.now_us


async def test_a_release_by_an_unknown_token_is_a_cancellation_without_an_allocation(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1")

    answer = await blockyard.allocator.Release(pb.ReleaseRequest(fleet="fleets/gpu", idempotency_token="token-1"))

    assert answer.outcome == pb.ReleaseResponse.CANCELLED_BEFORE_GRANT
    assert not answer.HasField("allocation")
    refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request("token-1")))
    assert refusal.reason == "TOKEN_CANCELLED"


async def test_the_caller_is_a_namespace_of_tokens(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")

    mine = await blockyard.allocator.Acquire(acquire_request(), metadata=(("blockyard-caller", "mine"),))
    other = await blockyard.allocator.Acquire(acquire_request())

    assert mine.allocation.name != other.allocation.name
    assert [r.caller for r in service.requests if isinstance(r, Acquire)] == ["mine", "default"]


@pytest.mark.parametrize("caller", ["", "No", "a/b", "a b", "-", "x" * 64])
async def test_a_malformed_caller_is_refused(blockyard: Blockyard, caller: str) -> None:
    await blockyard.make_fleet("gpu", "node-1")

    refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request(), metadata=(("blockyard-caller", caller),)))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ["metadata.blockyard-caller"]


async def test_a_batch_has_an_outcome_for_each_operation_in_order(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    tried = acquire_request("tried")
    tried.validate_only = True

    answer = await blockyard.allocator.Batch(
        pb.BatchRequest(
            operations=[
                pb.BatchOperation(acquire=acquire_request("a")),
                pb.BatchOperation(acquire=pb.AcquireRequest(fleet="fleets/gpu")),
                pb.BatchOperation(acquire=acquire_request("b", blocks=8)),
                pb.BatchOperation(release=pb.ReleaseRequest(fleet="fleets/gpu", idempotency_token="a")),
                pb.BatchOperation(),
                pb.BatchOperation(acquire=tried),
                pb.BatchOperation(renew=pb.RenewRequest(name="fleets/gpu/allocations/999")),
            ]
        )
    )

    kinds = [result.WhichOneof("result") for result in answer.results]
    assert kinds == ["acquire", "error", "error", "release", "error", "error", "error"]
    assert [result.error.code for result in answer.results if result.HasField("error")] == [
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        grpc.StatusCode.NOT_FOUND.value[0],
    ]
    assert answer.results[3].release.outcome == pb.ReleaseResponse.RELEASED


async def test_a_fault_in_one_operation_of_a_batch_is_its_own_and_says_nothing(
    blockyard: Blockyard, service: FakeService
) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    service.failures.extend([ValueError("a secret"), NoCapacity("full")])

    answer = await blockyard.allocator.Batch(
        pb.BatchRequest(operations=[pb.BatchOperation(acquire=acquire_request(token)) for token in "abc"])
    )

    assert answer.results[0].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in str(answer)
    assert answer.results[1].error.message == "full"
    assert answer.results[2].HasField("acquire")


async def test_what_is_asked_arrives_at_the_service_decoded(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    grant = await blockyard.allocator.Acquire(acquire_request(blocks=4))

    await blockyard.allocator.Release(
        pb.ReleaseRequest(
            name=grant.allocation.name,
            fleet="fleets/gpu",
            placements=[resources_pb2.Placement(instance="fleets/gpu/instances/node-1", blocks=[3, 1])],
            holder="job-1",
            fencing_token=grant.allocation.fencing_token,
        )
    )

    acquire, release = service.requests[-2:]
    assert acquire == Acquire("gpu", "default", "token-1", "job-1", (Demand(blocks=4),))
    assert release == Release(
        "gpu",
        "default",
        allocation=grant.allocation.fencing_token,
        placements=(("node-1", (1, 3)),),
        holder="job-1",
        fencing_token=grant.allocation.fencing_token,
    )


async def test_lists_go_on_page_by_page(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1", "node-2", "node-3")
    await blockyard.make_fleet("cpu")
    for token in "abc":
        await blockyard.allocator.Acquire(acquire_request(token))
    lists: list[tuple[Any, Any, str, int]] = [
        (blockyard.admin.ListFleets, fleet_admin_pb2.ListFleetsRequest(), "fleets", 2),
        (blockyard.admin.ListInstances, fleet_admin_pb2.ListInstancesRequest(parent="fleets/gpu"), "instances", 3),
        (blockyard.allocator.ListAllocations, pb.ListAllocationsRequest(parent="fleets/gpu"), "allocations", 3),
        (blockyard.allocator.Describe, pb.DescribeRequest(fleet="fleets/gpu"), "instances", 3),
        (blockyard.ledger.ListEvents, ledger_pb2.ListEventsRequest(parent="fleets/gpu"), "events", 7),
    ]
    for call, request, rows, expected in lists:
        whole = list(getattr(await call(request), rows))
        request.page_size = 1
        pages = []
        while True:
            answer = await call(request)
            pages.append(list(getattr(answer, rows)))
            request.page_token = answer.next_page_token
            if not request.page_token:
                break

        assert len(whole) == expected
        assert [row for page in pages for row in page] == whole
        assert all(len(page) == 1 for page in pages)


async def test_a_page_token_serves_its_own_list_only(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1", "node-2")
    first = await blockyard.allocator.Describe(pb.DescribeRequest(fleet="fleets/gpu", page_size=1))
    token = first.next_page_token

    for call, request in (
        (blockyard.allocator.Describe, pb.DescribeRequest(fleet="fleets/gpu", view=pb.FULL, page_token=token)),
        (blockyard.admin.ListInstances, fleet_admin_pb2.ListInstancesRequest(parent="fleets/gpu", page_token=token)),
        (blockyard.admin.ListFleets, fleet_admin_pb2.ListFleetsRequest(page_token=token)),
        (blockyard.ledger.ListEvents, ledger_pb2.ListEventsRequest(parent="fleets/gpu", page_token=token)),
    ):
        assert (await refusal_of(call(request))).fields == ["page_token"]


async def test_allocations_are_filtered(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1", "node-2", blocks=1)
    first = await blockyard.allocator.Acquire(acquire_request("a"))
    second = await blockyard.allocator.Acquire(acquire_request("b"))
    await blockyard.allocator.Release(pb.ReleaseRequest(name=first.allocation.name))

    async def names(**where: object) -> list[str]:
        request = pb.ListAllocationsRequest(parent="fleets/gpu", **where)  # type: ignore[arg-type]  # by the cases below
        return [a.name for a in (await blockyard.allocator.ListAllocations(request)).allocations]

    assert await names(state=resources_pb2.Allocation.HELD) == [second.allocation.name]
    assert await names(state=resources_pb2.Allocation.RELEASED) == [first.allocation.name]
    assert await names(instance="fleets/gpu/instances/node-1") == [first.allocation.name]
    assert await names(holder="nobody") == []
    assert await names(holder="job-1") == [first.allocation.name, second.allocation.name]


async def test_operators_create_read_change_and_delete(blockyard: Blockyard) -> None:
    admin = blockyard.admin
    fleet = resources_pb2.Fleet(labels={"zone": "a"}, default_placement_strategy=resources_pb2.WORST_FIT)
    fleet.default_ttl.FromSeconds(60)
    fleet.max_ttl.FromSeconds(600)
    made = await admin.CreateFleet(fleet_admin_pb2.CreateFleetRequest(fleet_id="gpu", fleet=fleet))
    shape = Instance(total_blocks=8, labels={"gpu": "a100"}, resources={"gpu": 8}, state=Instance.CORDONED)
    instance = await admin.CreateInstance(
        fleet_admin_pb2.CreateInstanceRequest(parent="fleets/gpu", instance_id="node-1", instance=shape)
    )
    name = "fleets/gpu/instances/node-1"

    assert (made.name, dict(made.labels), made.default_ttl.seconds, made.max_ttl.seconds) == (
        "fleets/gpu",
        {"zone": "a"},
        60,
        600,
    )
    assert made.etag
    assert made.default_placement_strategy == resources_pb2.WORST_FIT
    assert (instance.name, instance.total_blocks, instance.idle_blocks, instance.state) == (
        name,
        8,
        8,
        Instance.CORDONED,
    )
    assert (dict(instance.labels), dict(instance.resources), instance.order) == ({"gpu": "a100"}, {"gpu": 8}, 1)

    open_again = await admin.UncordonInstance(fleet_admin_pb2.UncordonInstanceRequest(name=name))
    assert open_again.state == Instance.ACTIVE
    closed = await admin.CordonInstance(fleet_admin_pb2.CordonInstanceRequest(name=name, etag=open_again.etag))
    assert closed.state == Instance.CORDONED
    assert closed == await admin.GetInstance(fleet_admin_pb2.GetInstanceRequest(name=name))

    late = fleet_admin_pb2.DeleteInstanceRequest(name=name, etag=open_again.etag)
    refusal = await refusal_of(admin.DeleteInstance(late))
    assert (refusal.reason, refusal.metadata) == ("ETAG_MISMATCH", {"resource": name, "etag": closed.etag})

    await admin.DeleteInstance(fleet_admin_pb2.DeleteInstanceRequest(name=name))
    await admin.DeleteFleet(fleet_admin_pb2.DeleteFleetRequest(name="fleets/gpu"))
    refusal = await refusal_of(admin.GetFleet(fleet_admin_pb2.GetFleetRequest(name="fleets/gpu")))
    assert refusal.reason == "FLEET_NOT_FOUND"


async def test_an_update_changes_what_its_mask_names_and_clears_what_is_not_set(blockyard: Blockyard) -> None:
    admin = blockyard.admin
    fleet = resources_pb2.Fleet(labels={"zone": "a"}, default_placement_strategy=resources_pb2.WORST_FIT)
    fleet.default_ttl.FromSeconds(60)
    await admin.CreateFleet(fleet_admin_pb2.CreateFleetRequest(fleet_id="gpu", fleet=fleet))

    request = fleet_admin_pb2.UpdateFleetRequest(fleet=resources_pb2.Fleet(name="fleets/gpu"))
    unchanged = await admin.UpdateFleet(request)
    request.update_mask.paths.append("default_ttl")
    without_ttl = await admin.UpdateFleet(request)
    request.update_mask.paths[:] = ["*"]
    bare = await admin.UpdateFleet(request)

    assert dict(unchanged.labels) == {"zone": "a"}
    assert unchanged.HasField("default_ttl")
    assert not without_ttl.HasField("default_ttl")
    assert dict(without_ttl.labels) == {"zone": "a"}
    assert not bare.labels
    assert bare.default_placement_strategy == resources_pb2.BEST_FIT


async def test_the_journal_tells_each_change_with_the_fields_of_its_kind(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    await blockyard.admin.UpdateInstance(
        fleet_admin_pb2.UpdateInstanceRequest(
            instance=Instance(name="fleets/gpu/instances/node-1", labels={"rack": "7"})
        )
    )
    request = acquire_request(blocks=2)
    request.ttl.FromSeconds(10)
    grant = await blockyard.allocator.Acquire(request)
    await blockyard.allocator.Renew(pb.RenewRequest(name=grant.allocation.name, ttl=Duration(seconds=60)))
    part = resources_pb2.Placement(instance="fleets/gpu/instances/node-1", blocks=[0])
    await blockyard.allocator.Release(pb.ReleaseRequest(name=grant.allocation.name, placements=[part]))
    await blockyard.allocator.Release(pb.ReleaseRequest(name=grant.allocation.name))
    await blockyard.allocator.Release(pb.ReleaseRequest(fleet="fleets/gpu", idempotency_token="other"))

    answer = await blockyard.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent="fleets/gpu"))

    kind = ledger_pb2.Event.Kind
    events = answer.events
    assert [kind.Name(event.kind) for event in events] == [
        "FLEET_CREATED",
        "INSTANCE_CREATED",
        "INSTANCE_UPDATED",
        "GRANTED",
        "RENEWED",
        "RELEASED",
        "RELEASED",
        "TOKEN_CANCELLED",
    ]
    assert [event.revision for event in events] == list(range(1, 9))
    assert events[0].fleet.name == "fleets/gpu"
    assert events[1].instance_after.total_blocks == 8
    assert dict(events[2].instance_after.labels) == {"rack": "7"}
    assert events[3].allocation == grant.allocation.name
    assert (events[3].idempotency_token, list(events[3].placements[0].blocks)) == ("token-1", [0, 1])
    assert events[4].expire_time.ToMicroseconds() > events[3].expire_time.ToMicroseconds()
    assert [(list(e.placements[0].blocks), e.ended) for e in events[5:7]] == [([0], False), ([1], True)]
    assert events[7].idempotency_token == "other"


async def test_events_are_filtered_and_begin_where_asked(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1", "node-2")
    await blockyard.allocator.Acquire(acquire_request())

    async def revisions(**where: object) -> list[int]:
        request = ledger_pb2.ListEventsRequest(parent="fleets/gpu", **where)  # type: ignore[arg-type]  # by the cases
        return [event.revision for event in (await blockyard.ledger.ListEvents(request)).events]

    assert await revisions(from_revision=0) == [1, 2, 3, 4]
    assert await revisions(from_revision=1) == [1, 2, 3, 4]
    assert await revisions(from_revision=3) == [3, 4]
    assert await revisions(from_revision=2**63 - 1) == []
    assert await revisions(kinds=[ledger_pb2.Event.GRANTED, ledger_pb2.Event.FLEET_CREATED]) == [1, 4]
    assert await revisions(holder="job-1") == [4]
    assert await revisions(instance="fleets/gpu/instances/node-2") == [3]


async def test_verify_reports_each_difference_by_name(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    clean = await blockyard.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/gpu"))
    service.discrepancies = (
        Discrepancy(Check.COUNTER, "3", "2", instance="node-1"),
        Discrepancy(Check.TOKEN, "a record", "none", allocation=7),
    )

    drift = await blockyard.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/gpu"))

    assert clean.clean
    assert (clean.revision, clean.instances_checked, clean.events_replayed) == (2, 1, 2)
    assert not drift.clean
    assert [(d.check, d.instance, d.allocation, d.expected, d.actual) for d in drift.discrepancies] == [
        (ledger_pb2.Discrepancy.COUNTER, "fleets/gpu/instances/node-1", "", "3", "2"),
        (ledger_pb2.Discrepancy.TOKEN, "", "fleets/gpu/allocations/7", "a record", "none"),
    ]


async def test_repair_reports_each_change_and_what_is_left_by_name(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    service.corrections = (
        Correction(CorrectionKind.COUNTER_SET, "node-1", before=3, after=0),
        Correction(CorrectionKind.BLOCK_HELD, "node-1", 7, 5),
        Correction(CorrectionKind.JOURNAL_RECONCILED, "node-1", None, 6),
    )
    service.discrepancies = (Discrepancy(Check.HELD_BLOCKS, "one", "two", "node-1", 7),)

    answer = await blockyard.ledger.Repair(ledger_pb2.RepairRequest(fleet="fleets/gpu", apply=True))

    kinds, name, allocation = ledger_pb2.Correction, "fleets/gpu/instances/node-1", "fleets/gpu/allocations/7"
    assert (answer.applied, answer.revision, answer.truncated, answer.halted) == (True, 2, False, True)
    assert list(answer.corrections) == [
        kinds(kind=kinds.COUNTER_SET, instance=name, before=3),
        kinds(kind=kinds.BLOCK_HELD, instance=name, allocation=allocation, block=5),
        kinds(kind=kinds.JOURNAL_RECONCILED, instance=name, block=6),
    ]
    assert [(d.check, d.instance, d.allocation) for d in answer.unrepaired] == [
        (ledger_pb2.Discrepancy.HELD_BLOCKS, name, allocation)
    ]
