"""From what the wire says to the exception that is raised."""

import pickle
from datetime import timedelta
from operator import attrgetter

import grpc
import pytest
from google.rpc.status_pb2 import Status

from blockyard import errors
from blockyard._allocator import get_allocation
from blockyard._failures import failure_of_status
from blockyard.errors import BY_REASON, BlockyardError, CallFailed, FieldViolation
from blockyard.reasons import REASONS, Reason
from blockyard.v1 import resources_pb2
from tests.sdk.conftest import Carrier
from tests.sdk.fake_server import Broken, FakeServer, error_status

ALL_CLASSES = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BlockyardError)}


def test_every_reason_has_a_class_of_its_own() -> None:
    assert set(BY_REASON) == set(Reason)
    assert len(set(BY_REASON.values())) == len(Reason)


def test_every_class_is_named_after_its_reason() -> None:
    for reason, kind in BY_REASON.items():
        assert kind.__name__ == reason.title().replace("_", "")


def test_only_what_is_unavailable_is_tried_again_and_all_of_that() -> None:
    assert {reason for reason, spec in REASONS.items() if spec.retriable} == {
        reason for reason, kind in BY_REASON.items() if issubclass(kind, errors.Unavailable)
    }


def test_the_drawing_of_the_tree_shows_every_class_under_its_parent() -> None:
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").partition(" ")[0]
        if line.startswith("    ") and name in {each.__name__ for each in ALL_CLASSES}:
            depth = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
            path[depth:] = [name]
            drawn[name] = path[depth - 1] if depth else "Exception"
    assert drawn == {each.__name__: each.__mro__[1].__name__ for each in ALL_CLASSES}


def test_an_error_carries_all_that_the_server_said(fake: FakeServer, carry_out: Carrier) -> None:
    status = error_status(
        Reason.INVALID_REQUEST, "two fields are bad", retry_after_s=1.5, bad_fields=("name", "fleet"), limit="3"
    )
    fake.answers("GetAllocation", lambda _: fake.refuse(status))
    with pytest.raises(errors.InvalidRequest) as e:
        carry_out(get_allocation("x"))
    assert str(e.value) == "two fields are bad"
    assert e.value.status == "INVALID_ARGUMENT"
    assert e.value.reason == "INVALID_REQUEST"
    assert e.value.metadata == {"limit": "3"}
    assert e.value.field_violations == (FieldViolation("name", "bad"), FieldViolation("fleet", "bad"))
    assert e.value.retry_delay == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, CallFailed),
        (grpc.StatusCode.UNAUTHENTICATED, CallFailed),
    ],
)
def test_an_error_without_a_reason_goes_by_its_status(
    fake: FakeServer, carry_out: Carrier, code: grpc.StatusCode, kind: type[CallFailed]
) -> None:
    fake.disturb("GetAllocation", Broken(code))
    with pytest.raises(CallFailed, match="the transport broke") as e:
        carry_out(get_allocation("x"))
    assert type(e.value) is kind
    assert e.value.status == code.name
    assert e.value.reason is None


def test_a_request_that_the_server_finds_too_large_is_over_a_limit(carry_out: Carrier) -> None:
    """GRPC refuses it itself, and gives no details."""
    with pytest.raises(
        errors.LimitExceeded, match=r"the request has 50000\d\d bytes, and this server accepts 4194304"
    ) as e:
        carry_out(get_allocation("x" * 5_000_000))
    assert e.value.metadata == {"limit": "max_request_bytes", "maximum": "4194304"}
    assert (e.value.status, e.value.reason) == ("RESOURCE_EXHAUSTED", None)


def test_an_answer_that_the_client_finds_too_large_is_over_a_limit(fake: FakeServer, carry_out: Carrier) -> None:
    fake.answers("GetAllocation", lambda _: resources_pb2.Allocation(holder="x" * (1 + 64 * 1024 * 1024)))
    with pytest.raises(
        errors.LimitExceeded, match=r"the answer has 6710\d+ bytes, and this client accepts 67108864"
    ) as e:
        carry_out(get_allocation("x"))
    assert e.value.metadata == {"limit": "max_answer_bytes", "maximum": "67108864"}


def test_a_reason_of_a_newer_server_is_kept() -> None:
    status = error_status(Reason.NO_CAPACITY)
    status.details[0].value = status.details[0].value.replace(b"NO_CAPACITY", b"NO_FANTASY!")
    failure = failure_of_status(status)
    assert type(failure) is CallFailed
    assert failure.reason == "NO_FANTASY!"
    assert failure.status == "RESOURCE_EXHAUSTED"


def test_a_reason_of_another_domain_is_not_ours() -> None:
    status = error_status(Reason.NO_CAPACITY)
    status.details[0].value = status.details[0].value.replace(b"blockyard.dev", b"example.co.uk")
    failure = failure_of_status(status)
    assert type(failure) is CallFailed
    assert failure.reason is None


def test_a_status_that_says_nothing_still_makes_a_sentence() -> None:
    assert str(failure_of_status(Status(code=8))) == "the server answered RESOURCE_EXHAUSTED"
    assert failure_of_status(Status(code=999)).status == "UNKNOWN"


@pytest.mark.parametrize("kind", sorted(ALL_CLASSES, key=attrgetter("__name__")))
def test_every_exception_survives_pickling(kind: type[BlockyardError]) -> None:
    error = kind("a sentence")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 # our own bytes
    assert type(copy) is kind
    assert str(copy) == "a sentence"


def test_a_pickled_exception_keeps_what_the_server_said() -> None:
    error = errors.NoCapacity("full", status="RESOURCE_EXHAUSTED", reason="NO_CAPACITY", metadata={"idle_blocks": "1"})
    error.lost_attempts = 2
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 # our own bytes
    assert vars(copy) == vars(error)
