"""Following a journal: broken streams are begun again after what came; what asking again would not change is raised."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from blockyard import (
    AsyncClient,
    Client,
    ClientClosed,
    Compacted,
    Event,
    EventKind,
    FleetNotFound,
    InternalError,
    InvalidRequest,
    InvariantViolated,
    RetryPolicy,
    ShuttingDown,
    StoreUnavailable,
    Unavailable,
    WatcherTooSlow,
    WatchUpdate,
)
from blockyard._watching import Follower, watch
from blockyard.reasons import Reason
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import ledger_pb2
from tests.sdk.conftest import QUICK
from tests.sdk.fake_server import SERVER_TIME, Broken, Ended, FakeServer, Refused

Follow = Callable[..., list[Any]]
"""Follows the fleet `gpu`: (how many, updates=False, **arguments of `watch`) -> the events or updates."""


def answer(revision: int, *events: int) -> pb.WatchResponse:
    return pb.WatchResponse(
        events=[
            ledger_pb2.Event(revision=each, kind=ledger_pb2.Event.RELEASED, time=SERVER_TIME, ended=True)
            for each in events
        ],
        revision=revision,
        server_time=SERVER_TIME,
    )


@pytest.fixture(params=["blocking", "asyncio"])
def follow(request: pytest.FixtureRequest, fake: FakeServer) -> Follow:
    def blocking(count: int, *, updates: bool = False, **asked: Any) -> list[Any]:
        with Client(fake.target, retry=QUICK) as client, client.watch("gpu", **asked) as watch:
            return list(islice(watch.updates() if updates else watch, count))

    async def awaiting(count: int, *, updates: bool, **asked: Any) -> list[Any]:
        found: list[Any] = []
        async with AsyncClient(fake.target, retry=QUICK) as client, client.watch("gpu", **asked) as watch:
            iterator = watch.updates() if updates else watch
            while len(found) < count:
                found.append(await anext(iterator))
        return found

    if request.param == "blocking":
        return blocking
    return lambda count, *, updates=False, **asked: asyncio.run(awaiting(count, updates=updates, **asked))


def revisions(events: list[Event]) -> list[int]:
    return [event.revision for event in events]


def asked(fake: FakeServer) -> list[int]:
    return [request.from_revision for request in fake.requests("Watch")]


def test_events_come_one_by_one_in_order(fake: FakeServer, follow: Follow) -> None:
    fake.streams("Watch", [answer(4), answer(6, 5, 6), answer(9), answer(10, 10)])

    events = follow(3, from_revision=5)

    assert revisions(events) == [5, 6, 10]
    assert [(event.kind, event.ended) for event in events] == [(EventKind.RELEASED, True)] * 3
    assert asked(fake) == [5]


def test_updates_also_show_how_far_there_was_nothing(fake: FakeServer, follow: Follow) -> None:
    fake.streams("Watch", [answer(4), answer(6, 5, 6), answer(9)])

    updates: list[WatchUpdate] = follow(3, updates=True)

    assert [(update.revision, revisions(list(update.events))) for update in updates] == [(4, []), (6, [5, 6]), (9, [])]
    assert {update.server_time.timestamp() for update in updates} == {SERVER_TIME.seconds}


def test_the_request_says_what_was_asked_for(fake: FakeServer, follow: Follow) -> None:
    fake.streams("Watch", [answer(4, 4), Broken()], [answer(5, 5)])

    follow(
        2,
        from_revision=3,
        kinds=[EventKind.GRANTED, EventKind.RELEASED],
        holder="train",
        instance="node-1",
        progress_interval=1.5,
    )

    first, second = fake.requests("Watch")
    assert first == pb.WatchRequest(
        fleet="fleets/gpu",
        from_revision=3,
        kinds=[ledger_pb2.Event.GRANTED, ledger_pb2.Event.RELEASED],
        holder="train",
        instance="fleets/gpu/instances/node-1",
        progress_interval=Duration(seconds=1, nanos=500_000_000),
    )
    first.from_revision = 5
    assert second == first


@pytest.mark.parametrize(
    "end",
    [
        Refused(Reason.SHUTTING_DOWN),
        Refused(Reason.OVERLOADED),
        Refused(Reason.STORE_UNAVAILABLE),
        Refused(Reason.WATCHER_TOO_SLOW),
        Broken(),
        Broken(grpc.StatusCode.INTERNAL),
        Broken(grpc.StatusCode.UNKNOWN),
        Broken(grpc.StatusCode.CANCELLED),
        Broken(grpc.StatusCode.DEADLINE_EXCEEDED),
        Ended(),
    ],
    ids=lambda end: getattr(end, "reason", None) or getattr(end, "status", end),
)
def test_a_stream_that_ends_is_begun_again_after_what_came(
    fake: FakeServer, follow: Follow, end: Refused | Broken | Ended
) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3), end], [answer(3), answer(8), end], [answer(8), end], [answer(9, 9)])

    assert revisions(follow(2)) == [3, 9]
    assert asked(fake) == [0, 4, 9, 9]


def test_a_watch_from_now_that_never_began_begins_with_the_now_of_its_next_try(
    fake: FakeServer, follow: Follow
) -> None:
    fake.streams("Watch", [Broken()], [Refused(Reason.STORE_UNAVAILABLE)], [answer(7), answer(8, 8)])

    assert revisions(follow(1)) == [8]
    assert asked(fake) == [0, 0, 0]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.COMPACTED, Compacted),
        (Reason.FLEET_NOT_FOUND, FleetNotFound),
        (Reason.INVALID_REQUEST, InvalidRequest),
        (Reason.INTERNAL_ERROR, InternalError),
        (Reason.INVARIANT_VIOLATED, InvariantViolated),
    ],
)
def test_what_asking_again_would_not_change_is_raised(
    fake: FakeServer, follow: Follow, reason: Reason, kind: type[Exception]
) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3), Broken()], [Refused(reason)])

    with pytest.raises(kind):
        follow(2)
    assert asked(fake) == [0, 4]


def test_the_revision_says_what_was_handed_out_also_within_an_answer(fake: FakeServer, client: Client) -> None:
    fake.streams("Watch", [answer(4), answer(9, 5, 6), answer(12), answer(13, 13)])
    watch = client.watch("gpu", from_revision=5)
    seen = [watch.revision]
    for _ in range(3):
        next(watch)
        seen.append(watch.revision)

    assert seen == [None, 5, 9, 13]
    watch.close()


def test_a_watch_sends_nothing_before_its_first_step(fake: FakeServer, client: Client) -> None:
    client.watch("gpu").close()

    assert fake.seen == []


def test_closing_ends_the_stream_and_the_iteration(fake: FakeServer, client: Client) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3)])
    watch = client.watch("gpu")

    def close() -> None:
        fake.wait_for("Watch")
        watch.close()

    closing = threading.Thread(target=close)
    closing.start()

    assert [event.revision for event in watch] in ([3], [])
    closing.join()
    assert list(watch) == []
    fake.wait_until_left("Watch")


def test_closing_while_the_stream_is_being_opened_ends_it(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = client.watch("gpu")
    open_stream = watch._open_stream

    def open_and_close(request: pb.WatchRequest) -> object:
        stream = open_stream(request)
        fake.wait_for("Watch")
        watch.close()
        return stream

    monkeypatch.setattr(watch, "_open_stream", open_and_close)

    assert list(watch) == []
    fake.wait_until_left("Watch")


INTERRUPTED = """
import sys
from blockyard import Client
with Client(sys.argv[1], timeout_s=20) as client, client.watch("gpu") as watch:
    try:
        print(next(watch).revision, flush=True)
        next(watch)
    except KeyboardInterrupt:
        print("interrupted", next(watch).revision)
"""


def test_a_step_that_is_interrupted_loses_no_event(fake: FakeServer) -> None:
    """In a process of its own, as a user has it: what a signal leaves behind in gRPC would hang a later test.

    The signal comes while the step waits. While gRPC opens a stream, a signal may leave a lock of gRPC taken.
    """
    fake.streams("Watch", [answer(2), answer(3, 3)], [answer(4, 4)])
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, fake.target], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "3\n"
        program.send_signal(signal.SIGINT)
        said, _ = program.communicate(timeout=60)

    assert (said, program.returncode) == ("interrupted 4\n", 0)
    assert asked(fake) == [0, 4], "from what it has seen on"


def test_leaving_a_loop_ends_the_stream(fake: FakeServer, client: Client) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3)])
    with client.watch("gpu") as watch:
        assert next(watch).revision == 3

    fake.wait_until_left("Watch")


def test_a_closed_client_ends_its_watches(fake: FakeServer) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3)])
    client = Client(fake.target, retry=QUICK)
    watch = client.watch("gpu")
    next(watch)
    client.close()

    with pytest.raises(ClientClosed):
        next(watch)


async def test_closing_an_async_watch_ends_the_stream_and_the_iteration(fake: FakeServer) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3)])
    async with AsyncClient(fake.target, retry=QUICK) as client:
        watch = client.watch("gpu")
        assert (await anext(watch)).revision == 3
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await watch.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert [event async for event in watch] == []
    await asyncio.to_thread(fake.wait_until_left, "Watch")


async def test_a_closed_async_client_ends_its_watches(fake: FakeServer) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3)])
    client = AsyncClient(fake.target, retry=QUICK)
    watch = client.watch("gpu")
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await client.close()

    with pytest.raises(ClientClosed):
        await waiting


async def test_a_step_that_is_cancelled_loses_nothing(fake: FakeServer) -> None:
    fake.streams("Watch", [answer(2), answer(3, 3)], [answer(3), answer(4, 4)])
    async with AsyncClient(fake.target, retry=QUICK) as client, client.watch("gpu") as watch:
        assert (await anext(watch)).revision == 3
        step = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        step.cancel()
        with suppress(asyncio.CancelledError):
            await step
        assert step.cancelled()
        assert (await anext(watch)).revision == 4
    assert asked(fake) == [0, 4]


def test_pauses_grow_with_each_failure_and_begin_anew_with_an_answer() -> None:
    follower = Follower(watch("gpu"), RetryPolicy(initial_s=1, max_s=100), several=False)
    lost = Unavailable("gone", status="UNAVAILABLE")

    growing = [follower.pause_s(lost, jitter=1.0) for _ in range(4)]
    follower.received(answer(3))

    assert growing == [1, 2, 4, 8]
    assert follower.pause_s(lost, jitter=1.0) == 1


def test_the_servers_word_when_to_come_again_is_heeded_unless_there_are_others() -> None:
    later = timedelta(seconds=7)
    stopping = ShuttingDown("", status="UNAVAILABLE", reason="SHUTTING_DOWN", retry_delay=later)
    away = StoreUnavailable("", status="UNAVAILABLE", reason="STORE_UNAVAILABLE", retry_delay=later)
    slow = WatcherTooSlow("", status="ABORTED", reason="WATCHER_TOO_SLOW")

    def pauses(*, several: bool) -> list[float]:
        return [
            Follower(watch("gpu"), QUICK, several=several).pause_s(failure, jitter=1.0)
            for failure in (stopping, away, slow)
        ]

    assert pauses(several=False) == [7, 7, QUICK.initial_s]
    assert pauses(several=True) == [QUICK.initial_s, 7, QUICK.initial_s]
