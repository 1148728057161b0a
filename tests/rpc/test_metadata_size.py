"""Metadata of a call: what fits is taken each time, what does not is refused each time, and never at random."""

import grpc
import pytest

from tests.rpc.wire import Blockyard, acquire_request, refusal_of

CALLS = 32
"""Enough that a limit that refuses at random is noticed."""
REFUSALS = 4
"""Each takes gRPC a quarter of a second."""


@pytest.mark.parametrize("size", [8 * 1024, 12 * 1024, 16 * 1024, 24 * 1024])
async def test_metadata_as_large_as_a_token_with_many_groups_is_taken_each_time(
    blockyard: Blockyard, size: int
) -> None:
    metadata = (("authorization", "x" * size),)

    refusals = [
        await refusal_of(blockyard.allocator.Acquire(acquire_request(str(number)), metadata=metadata))
        for number in range(CALLS)
    ]

    assert {refusal.reason for refusal in refusals} == {"FLEET_NOT_FOUND"}


@pytest.mark.parametrize("size", [32 * 1024, 48 * 1024])
async def test_more_metadata_is_refused_each_time_and_the_refusal_says_why(blockyard: Blockyard, size: int) -> None:
    metadata = (("authorization", "x" * size),)

    refusals = [
        await refusal_of(blockyard.allocator.Acquire(acquire_request(str(number)), metadata=metadata))
        for number in range(REFUSALS)
    ]

    assert {refusal.code for refusal in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all("metadata size" in refusal.message for refusal in refusals)


async def test_the_connection_goes_on_after_metadata_that_is_too_large(blockyard: Blockyard) -> None:
    await refusal_of(blockyard.allocator.Acquire(acquire_request(), metadata=(("x", "y" * 40 * 1024),)))

    assert (await refusal_of(blockyard.allocator.Acquire(acquire_request()))).reason == "FLEET_NOT_FOUND"
