"""Long work in slices: whose turn it is in between."""

import asyncio
from collections.abc import Iterator

from blockyard_server.rpc.slices import OPERATIONS_AT_ONCE, Slices

LENGTH = 5 * OPERATIONS_AT_ONCE


def steps(name: str, done: list[str]) -> Iterator[str]:
    """Work that says when it was done."""
    for number in range(LENGTH):
        done.append(name)
        yield f"{name}{number}"


def turns(done: list[str]) -> list[str]:
    """Who had a turn, one after the other."""
    return [name for number, name in enumerate(done) if number == 0 or done[number - 1] != name]


async def test_one_batch_of_each_tenant_is_at_work_and_others_have_turns_in_between() -> None:
    slices, done = Slices(), list[str]()
    flood = [slices.run(steps(name, done), LENGTH, "flood") for name in "abc"]

    found, _, _, quiet = await asyncio.gather(*flood, slices.run(steps("q", done), LENGTH, "quiet"))

    assert found == [f"a{number}" for number in range(LENGTH)]
    assert quiet == [f"q{number}" for number in range(LENGTH)]
    assert turns(done)[:10] == ["a", "q"] * 5
    assert turns(done)[10:] == ["b", "c"], "each of the flood's in its turn"


async def test_what_is_short_waits_for_nothing() -> None:
    slices, done = Slices(), list[str]()
    long = asyncio.ensure_future(slices.run(steps("a", done), LENGTH, "flood"))
    await asyncio.sleep(0)

    assert await slices.run(iter("short"), len("short"), "flood") == list("short")

    assert not long.done()
    await long


async def test_nothing_is_kept_of_tenants_that_have_ended() -> None:
    slices = Slices()
    await asyncio.gather(*(slices.run(steps("x", []), LENGTH, f"tenant {number}") for number in range(20)))

    assert not slices._at_it
