"""`with client.lease(...)`, against a server that loses and delays what it should not."""

import signal
import subprocess
import sys
import threading

import pytest

from blockyard import Client, ClientClosed, InternalError, LeaseLost, NoCapacity, OutcomeUnknown, TokenMismatch
from blockyard._call import Call, T
from blockyard.reasons import Reason
from tests.sdk.fake_server import Broken, FakeServer, Refused, Silent


class BodyError(Exception):
    """What goes wrong inside a with block."""


def test_a_lease_holds_blocks_for_the_time_of_its_block(fake: FakeServer, client: Client) -> None:
    with client.lease("gpu", blocks=2, holder="train") as lease:
        assert [each.name for each in fake.held.values()] == [lease.allocation.name]
        assert lease.allocation.placements[0].instance == "node-1"
    assert fake.held == {}


def test_a_lease_asks_for_thirty_seconds_unless_told_otherwise(fake: FakeServer, client: Client) -> None:
    with client.lease("gpu", blocks=1, holder="train"), client.lease("gpu", blocks=1, holder="train", ttl=None):
        first, second = fake.requests("Acquire")
    assert first.ttl.ToSeconds() == 30
    assert not second.HasField("ttl")


def test_a_lease_for_an_empty_holder_that_gets_no_answer_is_unknown_and_cancelled(
    fake: FakeServer, client: Client
) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    with pytest.raises(OutcomeUnknown), client.lease("gpu", blocks=2, holder="", timeout_s=0.3):
        pass
    assert fake.requests("Release")


def test_a_lease_is_released_after_an_exception_which_comes_through(fake: FakeServer, client: Client) -> None:
    with pytest.raises(BodyError), client.lease("gpu", blocks=2, holder="train"):
        raise BodyError
    assert fake.held == {}


def test_a_release_that_fails_does_not_hide_the_bodys_exception(fake: FakeServer, client: Client) -> None:
    fake.disturb("Release", Refused(Reason.INTERNAL_ERROR))
    with pytest.raises(BodyError) as e, client.lease("gpu", blocks=2, holder="train"):
        raise BodyError
    assert e.value.__notes__ == [
        "fleets/gpu/allocations/1 was not released, and stays held until it is released: refused: INTERNAL_ERROR"
    ]


def test_a_release_that_fails_is_raised_if_the_body_ended_in_peace(fake: FakeServer, client: Client) -> None:
    fake.disturb("Release", Refused(Reason.INTERNAL_ERROR))
    with pytest.raises(InternalError), client.lease("gpu", blocks=2, holder="train"):
        pass


def test_a_release_is_tried_again_while_the_server_is_away(fake: FakeServer, client: Client) -> None:
    with client.lease("gpu", blocks=2, holder="train"):
        fake.disturb("Release", Broken(), Refused(Reason.SHUTTING_DOWN), Refused(Reason.OVERLOADED))
    assert fake.held == {}


def test_what_the_server_has_forgotten_counts_as_released(fake: FakeServer, client: Client) -> None:
    with client.lease("gpu", blocks=2, holder="train"):
        fake.disturb("Release", Refused(Reason.ALLOCATION_NOT_FOUND))
    assert len(fake.requests("Release")) == 1


def test_a_refused_lease_raises_and_leaves_the_token_alone(fake: FakeServer, client: Client) -> None:
    fake.disturb("Acquire", Refused(Reason.NO_CAPACITY))
    with pytest.raises(NoCapacity), client.lease("gpu", blocks=2, holder="train"):
        pass
    assert fake.requests("Release") == []


def test_a_grant_whose_answer_never_came_is_cancelled(fake: FakeServer, client: Client) -> None:
    fake.disturb("Acquire", *[Silent(after=True)] * 20)
    with pytest.raises(OutcomeUnknown), client.lease("gpu", blocks=2, holder="train", token="t-1", timeout_s=0.6):
        pass
    assert [request.idempotency_token for request in fake.requests("Release")] == ["t-1"]
    assert fake.held == {}


def test_an_acquire_that_arrives_late_finds_its_token_cancelled(fake: FakeServer, client: Client) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    with pytest.raises(OutcomeUnknown), client.lease("gpu", blocks=2, holder="train", timeout_s=0.6):
        pass
    refusals = fake.deliver_late()
    assert refusals
    assert set(refusals) == {"TOKEN_CANCELLED"}
    assert fake.held == {}


def test_a_lost_attempt_is_cancelled_although_the_next_was_refused(fake: FakeServer, client: Client) -> None:
    fake.disturb("Acquire", Silent(), Refused(Reason.NO_CAPACITY))
    with pytest.raises(NoCapacity), client.lease("gpu", blocks=2, holder="train", timeout_s=2):
        pass
    assert fake.deliver_late() == ["TOKEN_CANCELLED"]


def test_somebody_elses_token_is_not_cancelled(fake: FakeServer, client: Client) -> None:
    client.acquire("gpu", blocks=1, holder="somebody", token="t-1")
    fake.disturb("Acquire", Broken(), Refused(Reason.TOKEN_MISMATCH))
    with pytest.raises(TokenMismatch), client.lease("gpu", blocks=2, holder="train", token="t-1"):
        pass
    assert "t-1" in fake.held


def test_a_cancellation_that_failed_is_noted_on_the_exception(fake: FakeServer, client: Client) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    fake.disturb("Release", Refused(Reason.INTERNAL_ERROR))
    with pytest.raises(OutcomeUnknown) as e, client.lease("gpu", blocks=2, holder="train", timeout_s=0.3):
        pass
    assert e.value.__notes__ == ["what it may have been granted was not released: refused: INTERNAL_ERROR"]


INTERRUPTED = """
import sys
from blockyard import Client
with Client(sys.argv[1], timeout_s=20) as client:
    try:
        with client.lease("gpu", blocks=2, holder="train", token="t-1"):
            print("the body began")
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_during_the_acquire_cancels_its_token(fake: FakeServer) -> None:
    """In a process of its own, as a user has it: what a signal leaves behind in gRPC would hang a later test."""
    fake.disturb("Acquire", Silent(after=True))
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, fake.target], stdout=subprocess.PIPE, text=True
    ) as program:
        fake.wait_for("Acquire")
        program.send_signal(signal.SIGINT)
        said, _ = program.communicate(timeout=60)

    assert (said, program.returncode) == ("interrupted\n", 0)
    assert [request.idempotency_token for request in fake.requests("Release")] == ["t-1"]
    assert fake.held == {}


def test_ctrl_c_in_the_body_releases(fake: FakeServer, client: Client) -> None:
    with pytest.raises(KeyboardInterrupt), client.lease("gpu", blocks=2, holder="train"):
        raise KeyboardInterrupt
    assert fake.held == {}


def test_a_lease_is_renewed_while_the_body_runs(fake: FakeServer, client: Client) -> None:
    fake.ttl_s = 1.5
    with client.lease("gpu", blocks=2, holder="train", ttl=1.5) as lease:
        fake.wait_for("Renew", 3)
        lease.check()
        assert not lease.lost.is_set()
    assert {request.name for request in fake.requests("Renew")} == {lease.allocation.name}
    assert fake.held == {}


def test_what_is_held_until_released_is_not_renewed(client: Client) -> None:
    with client.lease("gpu", blocks=2, holder="train") as lease:
        assert "blockyard-lease" not in {thread.name for thread in threading.enumerate()}
        lease.check()


def test_a_lease_that_has_ended_is_lost_at_once_and_says_why(fake: FakeServer, client: Client) -> None:
    fake.ttl_s = 1.5
    told: list[LeaseLost] = []
    with client.lease("gpu", blocks=2, holder="train", ttl=1.5) as lease:
        lease.on_lost(told.append)
        fake.disturb("Renew", Refused(Reason.LEASE_EXPIRED))
        assert lease.lost.wait(timeout=30)
        with pytest.raises(LeaseLost, match="has ended: refused: LEASE_EXPIRED"):
            lease.check()
    assert [str(error) for error in told] == ["the lease of fleets/gpu/allocations/1 has ended: refused: LEASE_EXPIRED"]


def test_a_lease_that_cannot_be_renewed_is_lost(fake: FakeServer, client: Client) -> None:
    fake.ttl_s = 0.6
    fake.disturb("Renew", *[Silent()] * 100)
    told = threading.Event()
    with client.lease("gpu", blocks=2, holder="train", ttl=0.6) as lease:
        lease.on_lost(lambda _: told.set())
        assert lease.lost.wait(timeout=30)
        with pytest.raises(LeaseLost, match="could not be renewed in time"):
            lease.check()
        assert told.wait(timeout=30)
    assert fake.held == {}


def test_a_callback_that_comes_after_the_loss_is_called_at_once(fake: FakeServer, client: Client) -> None:
    fake.ttl_s = 0.3
    fake.disturb("Renew", Refused(Reason.ALLOCATION_ENDED))
    told: list[LeaseLost] = []
    with client.lease("gpu", blocks=2, holder="train", ttl=0.3) as lease:
        assert lease.lost.wait(timeout=30)
        lease.on_lost(told.append)
    assert len(told) == 1


def test_a_lease_whose_client_was_closed_is_lost(fake: FakeServer) -> None:
    fake.ttl_s = 0.6
    client = Client(fake.target)

    def body() -> None:
        with client.lease("gpu", blocks=2, holder="train", ttl=0.6) as lease:
            client.close()
            assert lease.lost.wait(timeout=30)
            with pytest.raises(LeaseLost):
                lease.check()

    with pytest.raises(ClientClosed):
        body()


class BrokenClient(Client):
    """A client with a fault: its renewals end in an exception that is none of ours."""

    def call(self, call: Call[T]) -> T:
        if call.method == "Renew":
            raise ZeroDivisionError
        return super().call(call)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that is the point
def test_a_lease_that_nobody_renews_any_more_is_lost_whatever_the_reason(fake: FakeServer) -> None:
    fake.ttl_s = 0.6
    with BrokenClient(fake.target) as client, client.lease("gpu", blocks=2, holder="train", ttl=0.6) as lease:
        assert lease.lost.wait(timeout=30)
        with pytest.raises(LeaseLost, match="is no longer renewed"):
            lease.check()


def test_a_lease_that_was_left_is_not_held(client: Client) -> None:
    with client.lease("gpu", blocks=2, holder="train") as lease:
        pass
    with pytest.raises(LeaseLost, match="was released"):
        lease.check()


def test_a_lease_is_entered_once(client: Client) -> None:
    lease = client.lease("gpu", blocks=2, holder="train")
    with pytest.raises(RuntimeError, match="not entered"):
        lease.check()
    with lease:
        pass
    with pytest.raises(RuntimeError, match="once"), lease:
        pass


def test_renewals_and_the_release_carry_the_guards_of_the_holder(fake: FakeServer, client: Client) -> None:
    fake.ttl_s = 1.5
    with client.lease("gpu", blocks=2, holder="train", ttl=1.5) as lease:
        fake.wait_for("Renew")
    guards = {(each.holder, each.fencing_token) for each in (*fake.requests("Renew"), *fake.requests("Release"))}
    assert guards == {("train", lease.allocation.fencing_token)}


def test_an_acquire_without_an_answer_is_cancelled_for_its_holder_alone(fake: FakeServer, client: Client) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    with pytest.raises(OutcomeUnknown), client.lease("gpu", blocks=2, holder="train", timeout_s=0.6):
        pass
    assert [each.holder for each in fake.requests("Release")] == ["train"]


@pytest.mark.parametrize("reason", [Reason.NOT_HOLDER, Reason.STALE_FENCING_TOKEN])
def test_a_lease_whose_name_is_somebody_elses_by_now_is_lost_at_once(
    fake: FakeServer, client: Client, reason: Reason
) -> None:
    fake.ttl_s = 60
    fake.disturb("Renew", Refused(reason))
    with client.lease("gpu", blocks=2, holder="train", ttl=60) as lease:
        lease._renew(10)  # what its thread does at a third of the lease
        with pytest.raises(LeaseLost, match=f"has ended: refused: {reason}"):
            lease.check()
