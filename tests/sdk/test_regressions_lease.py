"""One test for each fault that was found in leases; the number never changes."""

import asyncio
import time

import pytest

from blockyard import AsyncClient, CallFailed, Client, LeaseLost, NoCapacity, _clock, aio_lease, lease
from blockyard._leasing import may_be_held
from tests.sdk.fake_server import FakeServer

PATIENCE_S = 30
"""Far more than a lease needs to notice."""


class SleepingMachine:
    """A clock on which the machine can be suspended, as it is for who asks after it is awake again."""

    def __init__(self) -> None:
        self.asleep_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.asleep_s


def test_401_a_lease_that_ended_while_the_machine_was_suspended_is_lost_when_it_is_awake_again(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.ttl_s = 3600
    machine = SleepingMachine()
    monkeypatch.setattr(lease, "lease_now", machine)
    with client.lease("gpu", blocks=2, holder="train", ttl=3600) as held:
        machine.asleep_s = 3600
        # Its thread has 20 minutes until the renewal, and notices nevertheless.
        assert held.lost.wait(PATIENCE_S)
        with pytest.raises(LeaseLost):
            held.check()
    assert fake.requests("Renew") == []


async def test_402_the_same_for_asyncio(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.ttl_s = 3600
    machine = SleepingMachine()
    monkeypatch.setattr(aio_lease, "lease_now", machine)
    async with (
        AsyncClient(fake.target, timeout_s=20) as client,
        client.lease("gpu", blocks=2, holder="train", ttl=3600) as held,
    ):
        machine.asleep_s = 3600
        await asyncio.wait_for(held.lost.wait(), PATIENCE_S)
        with pytest.raises(LeaseLost):
            held.check()
    assert fake.requests("Renew") == []


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has a clock of this name")
def test_403_leases_are_counted_on_a_clock_that_goes_on_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = _clock.lease_now()
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= now <= after


def test_404_a_refusal_that_is_not_the_services_own_cancels_the_acquire() -> None:
    too_large = CallFailed("Received message larger than max", status="RESOURCE_EXHAUSTED")
    no_capacity = NoCapacity("not now", status="RESOURCE_EXHAUSTED", reason="NO_CAPACITY")

    assert may_be_held(too_large)
    assert not may_be_held(no_capacity)
