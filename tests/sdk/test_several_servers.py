"""One client, several servers with one state: calls go round, and no call fails because one of the servers does."""

import socket
from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest

from blockyard import Allocation, Client, Overloaded, RetryPolicy, ShuttingDown, Unavailable, operations
from blockyard._allocator import get_allocation
from blockyard._call import Call
from blockyard._retry import Attempts
from blockyard.reasons import Reason
from blockyard.v1 import resources_pb2
from tests.sdk.conftest import QUICK, Carrier
from tests.sdk.fake_server import FakeServer, Refused, serving
from tests.sdk.several_servers import Load, Three, until_each_is_asked, until_settled

ACQUIRE = operations.acquire("gpu", blocks=2, holder="train", token="t-1")
READ: Call[Allocation] = get_allocation("fleets/gpu/allocations/1")


@pytest.fixture
def three() -> Iterator[Three]:
    with Three() as three:
        yield three


@pytest.fixture
def client(three: Three) -> Iterator[Client]:
    with Client(three.target, retry=QUICK, timeout_s=20) as client:
        until_each_is_asked(three, lambda: client.call(ACQUIRE))
        yield client


def test_calls_go_round_over_all_servers(three: Three, client: Client) -> None:
    before = three.calls()
    for _ in range(30):
        client.call(ACQUIRE)
    assert [after - calls for after, calls in zip(three.calls(), before, strict=True)] == [10, 10, 10]


def test_a_server_that_says_not_serving_gets_no_calls(three: Three, client: Client) -> None:
    three.servers[1].stop_serving()
    until_settled(lambda: client.call(ACQUIRE), lambda: three.calls()[1])
    before = three.calls()
    for _ in range(30):
        client.call(ACQUIRE)
    assert [after - calls for after, calls in zip(three.calls(), before, strict=True)] == [15, 0, 15]


def test_the_others_do_the_work_of_a_server_that_is_stopping_at_once(three: Three, client: Client) -> None:
    """It asks for a minute, and the call has 20 seconds: whoever waited would fail."""
    three.servers[0].shut_down(retry_after_s=60)
    before = three.calls()
    for _ in range(30):
        client.call(ACQUIRE)
    assert three.calls()[0] > before[0], "it never was asked, and the test shows nothing"


def test_a_server_alone_that_is_stopping_is_given_the_time_it_asks_for(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("GetAllocation", Refused(Reason.SHUTTING_DOWN, retry_after_s=60))
    with pytest.raises(ShuttingDown):
        carry_out(READ)
    assert len(fake.requests("GetAllocation")) == 1


def test_overload_is_not_carried_to_the_next_server(three: Three, client: Client) -> None:
    for server in three.servers:
        server.disturb("GetAllocation", Refused(Reason.OVERLOADED, retry_after_s=60))
    with pytest.raises(Overloaded):
        client.call(READ)
    assert sum(len(server.requests("GetAllocation")) for server in three.servers) == 1


def test_the_pause_after_a_refusal_depends_on_whether_there_are_others() -> None:
    stopping = ShuttingDown("stopping", status="UNAVAILABLE", retry_delay=timedelta(seconds=1))
    policy = RetryPolicy(initial_s=0.1, max_s=2)
    alone = Attempts(ACQUIRE, policy, deadline=110.0)
    one_of_several = Attempts(ACQUIRE, policy, deadline=110.0, several=True)
    assert [alone.pause_s(stopping, 100.0, jitter=0) for _ in range(3)] == [1, 1, 1]
    assert [one_of_several.pause_s(stopping, 100.0, jitter=0) for _ in range(3)] == [0.05, 0.1, 0.2]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_no_call_fails_while_one_server_is_killed_and_another_one_drains(three: Three, kind: str) -> None:
    killed, drained, left = three.servers
    with Load(kind, three.target) as load:
        load.wait_for_more(100)
        assert all(three.calls())
        three.kill(0)
        load.wait_for_more(100)
        before = len(killed.seen)
        drained.stop_serving()
        load.wait_for_more(20)
        drained.shut_down(retry_after_s=60)
        load.wait_for_more(200)
        assert len(killed.seen) == before, "it was dead"
        three.bring_back(0)
        while len(killed.seen) == before:
            load.wait_for_more(10)
    assert load.failures == []
    assert left.held == {}


def test_a_server_that_was_never_there_is_not_missed(three: Three) -> None:
    with Client(f"127.0.0.1:1,{three.target}", retry=QUICK, timeout_s=20) as client:
        for _ in range(10):
            client.call(ACQUIRE)
    assert sum(three.calls()) == 10


def test_when_all_are_gone_the_call_says_so_in_its_time(three: Three) -> None:
    for number in range(3):
        three.kill(number)
    with Client(three.target, retry=QUICK) as client, pytest.raises(Unavailable, match="all backends failing"):
        client.call(get_allocation("fleets/gpu/allocations/1", timeout_s=2))


def test_when_none_serves_the_call_says_so_in_its_time(three: Three, client: Client) -> None:
    for server in three.servers:
        server.answers("GetAllocation", resources_pb2.Allocation(state=resources_pb2.Allocation.HELD))
        server.stop_serving()
    read = get_allocation("fleets/gpu/allocations/1", timeout_s=1)
    with pytest.raises(Unavailable, match="unhealthy"):
        # Until the last of the three has told it.
        until_settled(lambda: client.call(read), count().__next__)


def test_one_name_with_two_addresses_is_two_servers() -> None:
    """The name localhost is both 127.0.0.1 and ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(FakeServer()) as four:
        port = four.target.rpartition(":")[2]
        with serving(FakeServer(), f"[::1]:{port}") as six, Client(f"dns:///localhost:{port}", retry=QUICK) as client:
            for _ in range(1000):
                client.call(ACQUIRE)
                if four.seen and six.seen:
                    return
    pytest.fail("one of the two was never asked")
