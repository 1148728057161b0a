"""What a principal's answers contain: nothing of another tenant's holders, tokens and annotations."""

from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2, ledger_pb2, resources_pb2
from blockyard_server.domain.policy import Role
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.store import allocation_search
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.models import copy_data_file
from tests.rpc.principals import Known, knowing, principal
from tests.rpc.wire import Blockyard, first_of

SECRET: Final = "secret-of-theirs"
FLEET: Final = "fleets/gpu"
PRINCIPALS: Final = {
    "builder": principal(Role.ADMIN, tenant="builders"),
    "theirs": principal(Role.SCHEDULER, tenant="theirs"),
    "viewer": principal(Role.VIEWER, tenant="ours"),
    "scheduler": principal(Role.SCHEDULER, tenant="ours"),
    "auditor": principal(Role.AUDITOR, tenant="ours"),
}
steps = st.lists(
    st.tuples(st.sampled_from(["acquire", "renew", "part", "release", "cancel"]), st.integers(0, 3)), max_size=8
)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Known]:
    copy_data_file(folder / "blockyard.db")
    engine = Engine(SqliteStore(folder / "blockyard.db"), SystemClock(), EngineSettings())
    await engine.start()
    try:
        async with knowing(engine, PRINCIPALS) as server:
            yield server
    finally:
        await engine.stop()


async def told(call: Any) -> bytes:
    """All that came back: the answer, or the error with its details."""
    try:
        answer: Message = await first_of(call)
    except grpc.aio.AioRpcError as error:
        values = [value for _, value in error.trailing_metadata() or ()]
        return b"".join(v if isinstance(v, bytes) else v.encode() for v in (error.details() or "", *values))
    return answer.SerializeToString()


async def tell_their_story(theirs: Blockyard, story: list[tuple[str, int]]) -> list[str]:
    """Their allocations' names, after some calls about them."""
    names: list[str] = []
    for step, (what, place) in enumerate(story):
        which = names[place % len(names)] if names else f"{FLEET}/allocations/1"
        match what:
            case "acquire":
                request = pb.AcquireRequest(
                    fleet=FLEET,
                    idempotency_token=f"{SECRET}-{step}",
                    holder=f"{SECRET}-holder",
                    demands=[pb.Demand(blocks=2)],
                    ttl=Duration(seconds=600),
                    annotations={"note": SECRET},
                )
                names.append((await theirs.allocator.Acquire(request)).allocation.name)
            case "renew":
                await told(theirs.allocator.Renew(pb.RenewRequest(name=which, ttl=Duration(seconds=900))))
            case "part":
                block = resources_pb2.Placement(instance=f"{FLEET}/instances/n1", blocks=[2 * (place % 4)])
                await told(theirs.allocator.Release(pb.ReleaseRequest(name=which, placements=[block])))
            case "release":
                await told(theirs.allocator.Release(pb.ReleaseRequest(name=which)))
            case _:
                cancelled = pb.ReleaseRequest(fleet=FLEET, idempotency_token=f"{SECRET}-cancelled-{step}")
                await told(theirs.allocator.Release(cancelled))
    return names


async def everything_told(client: Blockyard, names: list[str]) -> list[bytes]:
    """What a client learns: by reading, and by trying to change what is not its own."""
    some = [*names, f"{FLEET}/allocations/1"]
    own = pb.AcquireRequest(
        fleet=FLEET, idempotency_token="ours", holder="ours", demands=[pb.Demand(blocks=64)], validate_only=True
    )
    calls = [
        client.allocator.Describe(pb.DescribeRequest(fleet=FLEET, view=pb.FULL)),
        client.allocator.ListAllocations(pb.ListAllocationsRequest(parent=FLEET)),
        client.allocator.ListAllocations(pb.ListAllocationsRequest(parent=FLEET, instance=f"{FLEET}/instances/n1")),
        client.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent=FLEET)),
        client.allocator.Acquire(own),
        client.admin.DeleteInstance(fleet_admin_pb2.DeleteInstanceRequest(name=f"{FLEET}/instances/n1")),
        client.admin.DeleteFleet(fleet_admin_pb2.DeleteFleetRequest(name=FLEET)),
        *(client.allocator.GetAllocation(pb.GetAllocationRequest(name=name)) for name in some),
        *(client.allocator.Release(pb.ReleaseRequest(name=name, holder="x")) for name in some),
        *(client.allocator.Renew(pb.RenewRequest(name=name)) for name in some),
    ]
    answers = [await told(call) for call in calls]
    watch = client.allocator.Watch(pb.WatchRequest(fleet=FLEET, from_revision=1))
    answers.append((await watch.read()).SerializeToString())
    answers.append((await watch.read()).SerializeToString())
    watch.cancel()
    return answers


@pytest.mark.parametrize("who", [pytest.param("viewer", marks=pytest.mark.slow), "scheduler"])
@given(story=steps)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_answer_tells_of_another_tenants_holders_tokens_and_annotations(
    who: str, story: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with serving(tmp_path_factory.mktemp("data")) as server:
        await (await server.client("builder")).make_fleet("gpu", "n1", blocks=64)
        names = await tell_their_story(await server.client("theirs"), [("acquire", 0), *story])
        answers = await everything_told(await server.client(who), names)
        theirs = await everything_told(await server.client("theirs"), names)

    assert not [answer for answer in answers if SECRET.encode() in answer]
    assert [answer for answer in theirs if SECRET.encode() in answer], "they themselves are told"


async def test_where_a_page_ends_does_not_tell_who_holds_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search looks at so many rows for a page: at those of all, and not at those of a holder."""
    monkeypatch.setattr(allocation_search, "SCANNED_ROWS", 3)
    async with serving(tmp_path) as server:
        await (await server.client("builder")).make_fleet("gpu", "n1", blocks=64)
        await tell_their_story(await server.client("theirs"), [("acquire", 0)] * 8)
        viewer = await server.client("viewer")
        for state in (None, resources_pb2.Allocation.HELD, resources_pb2.Allocation.RELEASED):
            cursors = []
            for holder in (f"{SECRET}-holder", "nobody-here"):
                request = pb.ListAllocationsRequest(parent=FLEET, holder=holder)
                if state is not None:
                    request.state = state
                page = await viewer.allocator.ListAllocations(request)
                assert not page.allocations
                cursors.append(urlsafe_b64decode(page.next_page_token)[9:])
            assert cursors[0] == cursors[1], "behind a version and a digest of the request"


async def test_who_may_see_holders_sees_no_tokens(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await (await server.client("builder")).make_fleet("gpu", "n1", blocks=64)
        names = await tell_their_story(await server.client("theirs"), [("acquire", 0), ("cancel", 0)])
        answers = b"".join(await everything_told(await server.client("auditor"), names))

    assert f"{SECRET}-holder".encode() in answers
    assert f"{SECRET}-0".encode() not in answers
    assert f"{SECRET}-cancelled".encode() not in answers


async def test_others_blocks_are_seen_to_be_busy(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await (await server.client("builder")).make_fleet("gpu", "n1", blocks=64)
        names = await tell_their_story(await server.client("theirs"), [("acquire", 0)])
        viewer = await server.client("viewer")
        described = await viewer.allocator.Describe(pb.DescribeRequest(fleet=FLEET, view=pb.FULL))
        listed = await viewer.allocator.ListAllocations(pb.ListAllocationsRequest(parent=FLEET))
        events = await viewer.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent=FLEET))

    (hold,) = described.instances[0].holds
    assert (hold.allocation, hold.holder, list(hold.blocks)) == (names[0], "", [0, 1])
    assert not listed.allocations
    assert [(e.kind, e.allocation, e.holder, bool(e.placements)) for e in events.events][-1] == (
        ledger_pb2.Event.GRANTED,
        names[0],
        "",
        True,
    )


async def test_what_becomes_of_others_allocations_is_told_and_not_whose_they_are(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await (await server.client("builder")).make_fleet("gpu", "n1", blocks=64)
        story = [("acquire", 0), ("renew", 0), ("part", 0), ("release", 0), ("cancel", 0)]
        (name,) = await tell_their_story(await server.client("theirs"), story)
        viewer = await server.client("viewer")
        listed = await viewer.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent=FLEET, from_revision=3))

    assert [(ledger_pb2.Event.Kind.Name(event.kind), event.allocation) for event in listed.events] == [
        ("GRANTED", name),
        ("RENEWED", name),
        ("RELEASED", name),
        ("RELEASED", name),
        ("TOKEN_CANCELLED", ""),
    ]
    assert {(e.holder, e.actor, e.via, e.idempotency_token) for e in listed.events} == {("", "", "", "")}
