"""Each reason becomes a status with the details that fit it, small enough for every peer."""

import inspect

import grpc
import pytest

from blockyard.reasons import DOMAIN, REASONS, Reason
from blockyard_server.domain import errors
from blockyard_server.domain.errors import InvalidRequest, LimitExceeded, Refused
from blockyard_server.engine import failures
from blockyard_server.engine.failures import EngineFailure, RateLimited
from blockyard_server.rpc.errors import MAX_STATUS_BYTES, Failure, encode_abort, encode_failure, truncated
from tests.rpc.fake_service import FakeService
from tests.rpc.wire import Blockyard, Refusal, acquire_request, refusal_of, unpacked

METADATA = {
    "fleet": "fleets/gpu",
    "instance": "fleets/gpu/instances/node-1",
    "allocation": "fleets/gpu/allocations/7",
    "demand": "0",
    "idempotency_token": "token-1",
}
FAILURES: dict[str, type[Failure]] = {
    kind.reason: kind
    for module in (errors, failures)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Refused | EngineFailure) and hasattr(kind, "reason")
}
DETAIL = {
    "INVALID_ARGUMENT": "BadRequest",
    "NOT_FOUND": "ResourceInfo",
    "FAILED_PRECONDITION": "PreconditionFailure",
    "RESOURCE_EXHAUSTED": "QuotaFailure",
    "UNAVAILABLE": "RetryInfo",
}


def failure_of(reason: str) -> Failure:
    kind = FAILURES[reason]
    if kind is InvalidRequest:
        return InvalidRequest(("holder", "is required"))
    if kind is RateLimited:
        return RateLimited("too fast", wait_s=0.25, limit="units_per_s", maximum=3)
    if kind is LimitExceeded:
        return LimitExceeded("too many fleets", limit="fleets", maximum=3)
    return kind("a sentence", **METADATA)


def seen(failure: Failure) -> Refusal:
    code, message, _ = encode_abort(failure)
    return unpacked(code, message, encode_failure(failure))


def test_every_reason_has_one_failure_and_every_failure_a_reason() -> None:
    assert set(FAILURES) == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
def test_a_failure_has_its_reasons_status_and_an_error_info(reason: Reason) -> None:
    refusal = seen(failure_of(reason.value))

    assert refusal.code is grpc.StatusCode[REASONS[reason].status]
    assert refusal.reason == reason.value
    assert refusal.details["ErrorInfo"].domain == DOMAIN
    assert refusal.metadata == failure_of(reason.value).metadata
    assert refusal.message


@pytest.mark.parametrize("reason", [reason for reason in Reason if REASONS[reason].status in DETAIL])
def test_a_failure_has_the_detail_that_its_status_calls_for(reason: Reason) -> None:
    refusal = seen(failure_of(reason.value))

    assert set(refusal.details) == {"ErrorInfo", DETAIL[REASONS[reason].status]}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("FLEET_NOT_FOUND", "Fleet"),
        ("FLEET_EXISTS", "Fleet"),
        ("INSTANCE_NOT_FOUND", "Instance"),
        ("INSTANCE_EXISTS", "Instance"),
        ("ALLOCATION_NOT_FOUND", "Allocation"),
    ],
)
def test_a_resource_that_is_not_there_or_there_already_is_named(reason: str, kind: str) -> None:
    info = seen(failure_of(reason)).details["ResourceInfo"]

    assert (info.resource_type, info.resource_name) == (f"blockyard.dev/{kind}", METADATA[kind.lower()])


def test_a_precondition_names_what_it_is_about() -> None:
    violations = seen(failure_of("LEASE_EXPIRED")).details["PreconditionFailure"].violations

    assert [(v.type, v.subject) for v in violations] == [("LEASE_EXPIRED", "fleets/gpu/allocations/7")]


@pytest.mark.parametrize("reason", ["OVERLOADED", "SHUTTING_DOWN", "STORE_UNAVAILABLE"])
def test_those_who_are_refused_together_are_not_asked_back_together(reason: str) -> None:
    kind = FAILURES[reason]
    assert issubclass(kind, EngineFailure)
    assert kind.retry_after_s is not None
    asked = {seen(failure_of(reason)).details["RetryInfo"].retry_delay.ToNanoseconds() for _ in range(100)}

    assert len(asked) > 50
    assert min(asked) >= kind.retry_after_s * 1e9
    assert max(asked) <= (kind.retry_after_s + kind.retry_spread_s) * 1e9


def test_a_limit_names_itself() -> None:
    refusal = seen(failure_of("LIMIT_EXCEEDED"))

    assert refusal.metadata == {"limit": "fleets", "maximum": "3"}
    assert [v.subject for v in refusal.details["QuotaFailure"].violations] == ["limit:fleets"]


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("character", ["x", "ß", "\U0001d51b", "\x00", "\n"])
async def test_the_longest_error_reaches_a_client_whole(
    blockyard: Blockyard, service: FakeService, reason: Reason, character: str
) -> None:
    text = character * 20_000
    failure = failure_of(reason.value)
    failure.message = text
    failure.metadata = dict.fromkeys(failure.metadata, text)
    if isinstance(failure, InvalidRequest):
        failure.violations = ((f"field{text}", text),) * 100
    service.failures.append(failure)

    refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request()))

    assert encode_failure(failure).ByteSize() <= MAX_STATUS_BYTES
    assert refusal.code is grpc.StatusCode[REASONS[reason].status]
    assert refusal.reason == reason.value
    assert set(refusal.details) == set(seen(failure_of(reason.value)).details)


def test_a_text_is_cut_between_characters() -> None:
    assert truncated("äöü", 6) == "äöü"
    assert truncated("äöüx", 6) == "ä…"
    assert len(truncated("\U0001d51b" * 100, 10).encode()) <= 10


def test_a_violation_that_does_not_fit_is_left_out_after_those_that_do() -> None:
    refusal = seen(InvalidRequest(*[(f"demands[{i}].blocks", "must be 0..4096 " + "x" * 200) for i in range(64)]))

    assert refusal.fields == [f"demands[{i}].blocks" for i in range(len(refusal.fields))]
    assert 5 <= len(refusal.fields) < 64
