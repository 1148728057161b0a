"""A lease that a suspended machine slept through does not look alive, with clocks that a test sets forward."""

import asyncio
import subprocess
import sys

import pytest

from blockyard import AsyncClient, Client, LeaseLost, aio_lease, lease
from blockyard._clock import lease_now
from tests.sdk.fake_server import FakeServer, Silent

TTL_S = 3600.0
ASLEEP_S = 2 * TTL_S
BEFORE_A_RENEWAL_S = TTL_S / 3


class Clock:
    """The clock of leases. Sleeping and deadlines go by others, which a suspended machine stops."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return lease_now() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "lease_now", clock)
    monkeypatch.setattr(aio_lease, "lease_now", clock)
    fake.ttl_s = TTL_S
    return clock


def test_check_raises_right_after_the_machine_is_awake(fake: FakeServer, client: Client, clock: Clock) -> None:
    with client.lease("gpu", blocks=1, holder="train", ttl=TTL_S) as held:
        held.check()
        clock.ahead_s += ASLEEP_S
        with pytest.raises(LeaseLost, match="could not be renewed in time"):
            held.check()
        assert fake.requests("Renew") == []
        assert held.lost.is_set()


async def test_an_asyncio_check_raises_right_after_the_machine_is_awake(fake: FakeServer, clock: Clock) -> None:
    async with AsyncClient(fake.target) as client, client.lease("gpu", blocks=1, holder="train", ttl=TTL_S) as held:
        held.check()
        clock.ahead_s += ASLEEP_S  # no task has run since
        with pytest.raises(LeaseLost, match="could not be renewed in time"):
            held.check()
        assert fake.requests("Renew") == []
        assert held.lost.is_set()


def test_a_loss_is_told_although_a_renewal_was_under_way_when_the_machine_slept(
    fake: FakeServer, client: Client, clock: Clock
) -> None:
    fake.disturb("Renew", *[Silent()] * 10)
    with client.lease("gpu", blocks=1, holder="train", ttl=TTL_S) as held:
        clock.ahead_s += BEFORE_A_RENEWAL_S
        fake.wait_for("Renew")
        clock.ahead_s += ASLEEP_S
        assert held.lost.wait(timeout=30)


async def test_an_asyncio_loss_is_told_although_a_renewal_was_under_way_when_the_machine_slept(
    fake: FakeServer, clock: Clock
) -> None:
    fake.disturb("Renew", *[Silent()] * 10)
    async with AsyncClient(fake.target) as client, client.lease("gpu", blocks=1, holder="train", ttl=TTL_S) as held:
        clock.ahead_s += BEFORE_A_RENEWAL_S
        await asyncio.to_thread(fake.wait_for, "Renew")
        clock.ahead_s += ASLEEP_S
        async with asyncio.timeout(30):
            await held.lost.wait()


def test_a_renewal_that_is_answered_after_the_machine_slept_counts_from_before(
    fake: FakeServer, client: Client, clock: Clock
) -> None:
    answer = fake._renew

    def slept(request: object) -> object:
        clock.ahead_s += ASLEEP_S
        return answer(request)  # type: ignore[arg-type]  # the fake knows which it is

    with client.lease("gpu", blocks=1, holder="train", ttl=TTL_S) as held:
        fake.answers("Renew", slept)  # type: ignore[arg-type]  # an answer, as from `answer`
        held._renew(10)
        with pytest.raises(LeaseLost):
            held.check()


@pytest.mark.skipif(sys.platform != "linux", reason="time namespaces are Linux's")
def test_leases_are_counted_on_the_clock_that_goes_on_while_the_machine_is_suspended() -> None:
    ahead_s = 100_000
    program = "import time; from blockyard._clock import lease_now; print(lease_now() - time.monotonic())"
    unshare = ["unshare", "--time", "--boottime", str(ahead_s), "--fork", sys.executable, "-c", program]
    shown = subprocess.run(unshare, capture_output=True, text=True, check=False)
    if shown.returncode != 0 and "unshare" in shown.stderr:
        pytest.skip(f"no time namespace can be made here: {shown.stderr.strip()}")
    assert float(shown.stdout) > ahead_s / 2
