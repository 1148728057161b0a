"""Watch as a client sees it: what comes, how a stream ends, and what a client that does not read is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2, ledger_pb2, resources_pb2
from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.events import Granted
from blockyard_server.domain.journal import Watch, WatchPage
from blockyard_server.domain.limits import MAX_PAGE_BYTES
from blockyard_server.rpc.encode_ledger import encode_watch_page
from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from tests.harness.patience import eventually
from tests.rpc.fake_service import FakeService
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
"""A client that takes 64 KiB before it is read, and no more however long it waits."""
LABELS = {f"key-{number:02}": "x" * 250 for number in range(64)}
"""An event with these has 16 KiB."""


def watching(from_revision: int = 0, **fields: Any) -> pb.WatchRequest:
    return pb.WatchRequest(fleet="fleets/gpu", from_revision=from_revision, **fields)


async def test_a_watch_begins_with_a_mark_and_tells_each_event_once(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    call = blockyard.allocator.Watch(watching(from_revision=2))
    first = await call.read()
    registered = await call.read()
    grant = await blockyard.allocator.Acquire(acquire_request(blocks=2))
    granted = await call.read()
    call.cancel()

    assert (list(first.events), first.revision) == ([], 1)
    assert first.server_time.ToMicroseconds() == service.now_us
    assert [(event.kind, event.revision) for event in registered.events] == [(ledger_pb2.Event.INSTANCE_CREATED, 2)]
    [event] = granted.events
    listed = await blockyard.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent="fleets/gpu", from_revision=3))
    assert [event] == list(listed.events)
    assert (event.allocation, granted.revision) == (grant.allocation.name, grant.revision)


async def test_the_filters_and_the_interval_reach_the_service(blockyard: Blockyard, service: FakeService) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    request = watching(
        from_revision=7,
        kinds=[ledger_pb2.Event.RELEASED, ledger_pb2.Event.GRANTED],
        holder="job",
        instance="fleets/gpu/instances/node-1",
        progress_interval=Duration(seconds=1, nanos=500_000_000),
    )
    for asked in (request, watching()):
        call = blockyard.allocator.Watch(asked)
        await call.read()
        call.cancel()

    assert service.watches == [
        Watch("gpu", 7, EventFilter(("GRANTED", "RELEASED"), "job", "node-1"), 1_500_000),
        Watch("gpu", 0, EventFilter(), 10_000_000),
    ]


async def test_a_draining_server_ends_a_watch_with_a_last_mark(edge: Edge, blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "node-1")
    call = blockyard.allocator.Watch(watching())
    assert (await call.read()).revision == 2
    stopping = asyncio.ensure_future(edge.stop(grace_s=30))
    last = await call.read()
    refusal = await refusal_of(call.read())
    await stopping

    assert (list(last.events), last.revision) == ([], 2)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert 1000 <= refusal.details["RetryInfo"].retry_delay.ToMilliseconds() <= 2000


@asynccontextmanager
async def impatient_server(write_patience_s: float) -> AsyncIterator[tuple[Edge, Blockyard, str]]:
    """A server that gives a client so long to read, with a journal of half a megabyte, and a narrow client of it."""
    edge = build_server(FakeService(), EdgeSettings(max_concurrent_calls=1, write_patience_s=write_patience_s))
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
        blockyard = Blockyard(channel)
        await blockyard.make_fleet("gpu")
        for number in range(32):
            shape = resources_pb2.Instance(total_blocks=1, labels=LABELS)
            request = fleet_admin_pb2.CreateInstanceRequest(
                parent="fleets/gpu", instance_id=f"node-{number}", instance=shape
            )
            await blockyard.admin.CreateInstance(request)
        yield edge, blockyard, address
    await edge.stop(grace_s=0)


async def test_a_client_that_does_not_read_is_told_where_to_go_on() -> None:
    async with impatient_server(0.2) as (edge, blockyard, _):
        call = blockyard.allocator.Watch(watching(from_revision=1))
        await call.read()
        await until_it_is_given_up(edge)
        answers: list[pb.WatchResponse] = []
        refusal = await refusal_of(read_all(call, answers))
        revisions, mark = [event.revision for answer in answers for event in answer.events], answers[-1].revision

        # Whoever reads on after all has got everything up to the mark, and nothing twice.
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "WATCHER_TOO_SLOW")
        assert revisions == list(range(1, mark + 1))
        assert 1 < mark < 33
        assert refusal.metadata == {"fleet": "fleets/gpu", "revision": str(mark)}

        again = blockyard.allocator.Watch(watching(from_revision=mark + 1))
        rest: list[int] = []
        while not rest or rest[-1] < 33:
            rest += [event.revision for event in (await again.read()).events]
        again.cancel()
        assert revisions + rest == list(range(1, 34))


async def test_a_client_that_never_reads_keeps_one_streams_place_and_no_drain_waiting() -> None:
    async with impatient_server(0.1) as (edge, blockyard, address):
        call = blockyard.allocator.Watch(watching(from_revision=1))
        await call.read()
        await until_it_is_given_up(edge)
        # On a connection of its own: on the same one it would wait.
        async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
            refusal = await refusal_of(Blockyard(channel).allocator.Watch(watching()).read())
        assert (refusal.reason, refusal.metadata) == ("OVERLOADED", {"maximum": "1"})
        async with asyncio.timeout(20):
            await edge.stop(grace_s=0.1)
        call.cancel()


def test_a_page_that_would_weigh_too_much_is_sent_in_several_answers() -> None:
    placements = tuple((f"node-{number:03}", tuple(range(300, 4300, 4))) for number in range(16))
    events = tuple(
        Granted(revision, 0, "job", "default", str(revision), b"", placements, None, None, {})
        for revision in range(1, 101)
    )

    answers = list(encode_watch_page("gpu", WatchPage(events, 120, 0)))

    assert [event.revision for answer in answers for event in answer.events] == list(range(1, 101))
    assert [answer.revision for answer in answers] == [*(a.events[-1].revision for a in answers[:-1]), 120]
    assert len(answers) > 1
    assert all(answer.ByteSize() < 2 * MAX_PAGE_BYTES for answer in answers)


def test_a_mark_is_one_answer() -> None:
    [answer] = encode_watch_page("gpu", WatchPage((), 7, 1_500_000))

    assert (list(answer.events), answer.revision, answer.server_time.ToMicroseconds()) == ([], 7, 1_500_000)


async def until_it_is_given_up(edge: Edge) -> None:
    async def given_up() -> bool:
        return edge.error_answers.streams_that_are_ending > 0

    await eventually(given_up, "a stream that nobody reads is ended")


async def read_all(call: Any, answers: list[pb.WatchResponse]) -> None:
    """Reads to the end, which raises."""
    while True:
        answers.append(await call.read())
