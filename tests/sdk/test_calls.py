"""What each call sends, and what it makes of the answer. Everything goes over a real wire."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.json_format import ParseDict

from blockyard import (
    Allocation,
    AllocationState,
    AsyncClient,
    BlockCounts,
    Client,
    Demand,
    DescribeView,
    Expression,
    Grant,
    Hold,
    InstanceBlocks,
    InstanceState,
    NoCapacity,
    Operator,
    Placement,
    PlacementStrategy,
    ReleaseOutcome,
    ReleaseResult,
    Selector,
    UnexpectedAnswer,
    operations,
)
from blockyard._allocator import DESCRIBE_RESTARTS
from blockyard.reasons import Reason
from blockyard.v1 import allocator_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2
from tests.sdk.fake_server import FakeServer, error_status
from tests.sdk.samples import ALLOCATION, NAME, TIME, sent


def test_every_rpc_of_the_api_has_a_method_of_its_name() -> None:
    rpcs = {
        method.name
        for module in (allocator_pb2, fleet_admin_pb2, ledger_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    methods = {name.title().replace("_", "") for name in dir(Client) if not name.startswith("_")}
    assert rpcs - {"Watch", "Repair"} <= methods


def test_a_short_acquire_is_one_demand(fake: FakeServer, client: Client) -> None:
    client.acquire(
        "gpu",
        holder="train",
        instances=2,
        requirements={"gpu": 2},
        selector={"zone": "a"},
        instance_names=["node-1", "fleets/gpu/instances/node-2"],
        token="t-1",
        ttl=1.5,
        strategy=PlacementStrategy.WORST_FIT,
        annotations={"team": "a"},
        validate_only=True,
    )
    assert sent(fake, "Acquire") == {
        "fleet": "fleets/gpu",
        "idempotencyToken": "t-1",
        "holder": "train",
        "demands": [
            {
                "instances": 2,
                "requirements": {"gpu": "2"},
                "selector": {"matchLabels": {"zone": "a"}},
                "instanceNames": ["fleets/gpu/instances/node-1", "fleets/gpu/instances/node-2"],
            }
        ],
        "placementStrategy": "WORST_FIT",
        "ttl": "1.500s",
        "annotations": {"team": "a"},
        "validateOnly": True,
    }


def test_a_long_acquire_has_many_demands(fake: FakeServer, client: Client) -> None:
    terms = (Expression("zone", Operator.NOT_IN, ("a", "b")), Expression("ssd", Operator.EXISTS))
    client.acquire(
        "fleets/gpu",
        holder="train",
        demands=[Demand(blocks=8, exclusive=True), Demand(blocks=1, selector=Selector(match_expressions=terms))],
        ttl=timedelta(minutes=1),
    )
    assert sent(fake, "Acquire")["ttl"] == "60s"
    assert sent(fake, "Acquire")["demands"] == [
        {"instances": 1, "blocks": 8, "exclusive": True},
        {
            "instances": 1,
            "blocks": 1,
            "selector": {
                "matchExpressions": [
                    {"key": "zone", "operator": "NOT_IN", "values": ["a", "b"]},
                    {"key": "ssd", "operator": "EXISTS"},
                ]
            },
        },
    ]


def test_both_forms_at_once_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="demands replaces blocks"):
        operations.acquire("gpu", holder="train", blocks=1, demands=[Demand(blocks=1)])


def test_each_acquire_has_a_token_of_its_own() -> None:
    first, second = (operations.acquire("gpu", blocks=1, holder="train") for _ in range(2))
    assert first.token
    assert first.token != second.token


def test_a_full_name_of_another_fleet_is_refused() -> None:
    with pytest.raises(ValueError, match="not an instance of 'fleets/gpu'"):
        operations.acquire("gpu", holder="train", blocks=1, instance_names=["fleets/cpu/instances/node-1"])


def test_an_allocation_is_answered_with_short_ids_and_python_values(fake: FakeServer, client: Client) -> None:
    fake.answers("GetAllocation", ParseDict(ALLOCATION, resources_pb2.Allocation()))
    assert client.get_allocation(NAME) == Allocation(
        name=NAME,
        fleet="gpu",
        holder="train",
        state=AllocationState.HELD,
        placements=(Placement("node-1", (2, 3)),),
        fencing_token=17,
        revision=18,
        ttl=timedelta(seconds=30),
        grant_time=datetime(2027, 1, 15, 8, tzinfo=UTC),
        expire_time=datetime(2027, 1, 15, 8, 0, 30, 250_000, tzinfo=UTC),
        end_time=None,
        annotations={"team": "a"},
        idempotency_token="t-1",
        offline_instances=("node-1",),
    )
    assert sent(fake, "GetAllocation") == {"name": NAME}
    assert len({client.get_allocation(NAME), client.get_allocation(NAME)}) == 1


def test_a_partial_release_names_blocks_and_guards(fake: FakeServer, client: Client) -> None:
    result = client.release(NAME, placements=[Placement("node-1", (3,))], holder="train", fencing_token=17)
    assert result.outcome == ReleaseOutcome.ALREADY_RELEASED
    assert sent(fake, "Release") == {
        "name": NAME,
        "placements": [{"instance": "fleets/gpu/instances/node-1", "blocks": [3]}],
        "holder": "train",
        "fencingToken": "17",
    }


def test_no_blocks_to_release_do_not_mean_all_blocks() -> None:
    with pytest.raises(ValueError, match="placements is empty"):
        operations.release(NAME, placements=[])


def test_a_release_by_token_says_whether_there_was_a_grant(fake: FakeServer, client: Client) -> None:
    result = client.release_by_token("gpu", "t-1", holder="train", fencing_token=3)
    assert result.outcome == ReleaseOutcome.CANCELLED_BEFORE_GRANT
    assert result.allocation is None
    assert sent(fake, "Release") == {
        "fleet": "fleets/gpu",
        "idempotencyToken": "t-1",
        "holder": "train",
        "fencingToken": "3",
    }


def test_a_renewal_takes_an_allocation_or_its_name(fake: FakeServer, client: Client) -> None:
    fake.ttl_s = 30
    allocation = client.acquire("gpu", blocks=1, holder="train").allocation
    assert client.renew(allocation, ttl=60, holder="train", fencing_token=1).allocation == allocation
    assert sent(fake, "Renew") == {"name": allocation.name, "ttl": "60s", "holder": "train", "fencingToken": "1"}
    client.renew(allocation.name)
    assert sent(fake, "Renew") == {"name": allocation.name}


def test_a_batch_answers_each_operation_by_itself(fake: FakeServer, client: Client) -> None:
    grant = {"allocation": ALLOCATION, "revision": "18", "serverTime": TIME}
    answer = ParseDict(
        {"results": [{"acquire": grant}, {}, {"release": {"outcome": 2}}]}, allocator_pb2.BatchResponse()
    )
    answer.results[1].error.CopyFrom(error_status(Reason.NO_CAPACITY, "full", idle_blocks="1"))
    fake.answers("Batch", answer)
    acquired, refused, released = client.batch(
        [
            operations.acquire("gpu", blocks=2, holder="train"),
            operations.acquire("gpu", blocks=8, holder="train"),
            operations.release(NAME),
        ]
    )
    assert isinstance(acquired, Grant)
    assert acquired.allocation.name == NAME
    assert isinstance(refused, NoCapacity)
    assert refused.metadata == {"idle_blocks": "1"}
    assert isinstance(released, ReleaseResult)
    assert released.outcome == ReleaseOutcome.ALREADY_RELEASED
    assert [list(each) for each in sent(fake, "Batch")["operations"]] == [["acquire"], ["acquire"], ["release"]]


def describe_page(revision: int, *instances: str, more: str = "") -> allocator_pb2.DescribeResponse:
    return ParseDict(
        {
            "fleet": "fleets/gpu",
            "revision": revision,
            "totals": {"instances": 2, "totalBlocks": 16, "busyBlocks": 2, "idleBlocks": 14, "acquirableBlocks": 6},
            "instances": [
                {
                    "instance": f"fleets/gpu/instances/{name}",
                    "state": "ACTIVE",
                    "totalBlocks": 8,
                    "busyBlocks": 1,
                    "idleBlocks": 7,
                    "holds": [{"allocation": NAME, "holder": "train", "blocks": [0]}],
                }
                for name in instances
            ],
            "nextPageToken": more,
            "serverTime": TIME,
        },
        allocator_pb2.DescribeResponse(),
    )


def test_a_fleet_is_described_from_all_its_pages(fake: FakeServer, client: Client) -> None:
    pages = {"": describe_page(5, "node-1", more="p-2"), "p-2": describe_page(5, "node-2")}
    fake.answers("Describe", lambda request: pages[request.page_token])
    snapshot = client.describe("gpu", view=DescribeView.FULL)
    assert snapshot.consistent
    assert snapshot.revision == 5
    assert snapshot.totals == BlockCounts(2, 16, 2, 14, 6)
    assert [each.instance for each in snapshot.instances] == ["node-1", "node-2"]
    assert snapshot.instances[0] == InstanceBlocks(
        instance="node-1",
        state=InstanceState.ACTIVE,
        total_blocks=8,
        busy_blocks=1,
        idle_blocks=7,
        holds=(Hold(NAME, "train", (0,)),),
    )
    assert sent(fake, "Describe") == {"fleet": "fleets/gpu", "view": "FULL", "pageSize": 1000, "pageToken": "p-2"}


def test_a_fleet_that_changes_between_two_pages_is_read_again(fake: FakeServer, client: Client) -> None:
    answers = iter([describe_page(5, "node-1", more="p"), describe_page(6, "node-2")])
    calm = {"": describe_page(6, "node-1", more="p"), "p": describe_page(6, "node-2")}
    fake.answers("Describe", lambda request: next(answers, None) or calm[request.page_token])
    snapshot = client.describe("gpu")
    assert snapshot.consistent
    assert snapshot.revision == 6
    assert [each.instance for each in snapshot.instances] == ["node-1", "node-2"]


def test_a_fleet_that_never_rests_is_described_as_inconsistent(fake: FakeServer, client: Client) -> None:
    def answer(request: allocator_pb2.DescribeRequest) -> allocator_pb2.DescribeResponse:
        revision = len(fake.requests("Describe"))
        following = {"": "p-2", "p-2": "p-3", "p-3": ""}
        return describe_page(revision, f"node-{request.page_token}", more=following[request.page_token])

    fake.answers("Describe", answer)
    snapshot = client.describe("gpu")
    assert not snapshot.consistent
    assert [each.instance for each in snapshot.instances] == ["node-", "node-p-2", "node-p-3"]
    assert len(fake.requests("Describe")) == DESCRIBE_RESTARTS * 2 + 3
    assert snapshot.revision == len(fake.requests("Describe"))


def test_one_page_can_be_described_by_itself(fake: FakeServer, client: Client) -> None:
    fake.answers("Describe", describe_page(5, "node-1", more="p-2"))
    page = client.describe_page("gpu", page_size=1, page_token="p-1")
    assert page.next_page_token == "p-2"
    assert sent(fake, "Describe") == {"fleet": "fleets/gpu", "view": "BASIC", "pageSize": 1, "pageToken": "p-1"}


def list_pages(request: allocator_pb2.ListAllocationsRequest) -> allocator_pb2.ListAllocationsResponse:
    """Three pages, the second of them empty."""
    first = int(request.page_token or 0)
    names = [] if first == 1 else [{**ALLOCATION, "name": f"fleets/gpu/allocations/{first}"}]
    following = str(first + 1) if first < 2 else ""
    document = {"allocations": names, "nextPageToken": following}
    return ParseDict(document, allocator_pb2.ListAllocationsResponse())


def test_a_list_goes_through_all_pages_with_the_same_filters(fake: FakeServer, client: Client) -> None:
    fake.answers("ListAllocations", list_pages)
    listed = client.list_allocations("gpu", holder="train", state=AllocationState.HELD, instance="node-1", page_size=1)
    assert [each.name for each in listed] == ["fleets/gpu/allocations/0", "fleets/gpu/allocations/2"]
    assert sent(fake, "ListAllocations") == {
        "parent": "fleets/gpu",
        "holder": "train",
        "state": "HELD",
        "instance": "fleets/gpu/instances/node-1",
        "pageSize": 1,
        "pageToken": "2",
    }


def test_a_list_is_read_only_as_far_as_it_is_used(fake: FakeServer, client: Client) -> None:
    fake.answers("ListAllocations", list_pages)
    listed = client.list_allocations("gpu")
    assert fake.requests("ListAllocations") == []
    next(listed)
    assert len(fake.requests("ListAllocations")) == 1


async def test_the_asyncio_client_lists_and_describes_the_same(fake: FakeServer) -> None:
    pages = {"": describe_page(5, "node-1", more="p-2"), "p-2": describe_page(5, "node-2")}
    fake.answers("Describe", lambda request: pages[request.page_token])
    fake.answers("ListAllocations", list_pages)
    async with AsyncClient(fake.target) as client:
        names = [each.name async for each in client.list_allocations("gpu")]
        snapshot = await client.describe("gpu")
    assert names == ["fleets/gpu/allocations/0", "fleets/gpu/allocations/2"]
    assert [each.instance for each in snapshot.instances] == ["node-1", "node-2"]


def test_a_word_that_only_a_newer_sdk_knows_is_no_guess(fake: FakeServer, client: Client) -> None:
    fake.answers("GetAllocation", ParseDict({**ALLOCATION, "state": 9}, resources_pb2.Allocation()))
    with pytest.raises(UnexpectedAnswer, match="AllocationState 9"):
        client.get_allocation(NAME)


def test_the_caller_goes_with_every_call(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def caller(target: str | None = None, caller: str | None = None) -> str | bytes | None:
        with Client(target, caller=caller) as client:
            client.release_by_token("gpu", "t-1")
        return fake.seen[-1].metadata.get("blockyard-caller")

    assert caller(fake.target) is None
    assert caller(fake.target, "sched-1") == "sched-1"
    monkeypatch.setenv("BLOCKYARD_ADDRESS", fake.target)
    monkeypatch.setenv("BLOCKYARD_CALLER", "sched-2")
    assert caller() == "sched-2"
    assert caller(caller="sched-1") == "sched-1"
