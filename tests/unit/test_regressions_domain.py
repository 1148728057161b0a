"""One test for each fault that was found in the core; the number never changes."""

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import pytest

from blockyard_server.domain import fingerprint as fingerprint_module
from blockyard_server.domain import index as index_module
from blockyard_server.domain.answers import Check
from blockyard_server.domain.audit import Replay
from blockyard_server.domain.errors import NoCapacity, StaleFencingToken, Unsatisfiable
from blockyard_server.domain.events import (
    Event,
    FleetDeleted,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
)
from blockyard_server.domain.fingerprint import fingerprint
from blockyard_server.domain.fleet import FleetState, Inconsistent
from blockyard_server.domain.requests import DeleteInstance, Demand, PlacementStrategy, Release
from tests.unit.pure_fleet import START, PureFleet, shape, term


def test_101_nobody_is_told_to_wait_for_what_can_never_be() -> None:
    fleet = PureFleet(4)
    fleet.take(Demand(blocks=4))

    refusal = fleet.refusal(fleet.wish(Demand(blocks=1), Demand(blocks=5)), Unsatisfiable)

    assert refusal.metadata == {"demand": "1", "instances_needed": "1", "instances_fitting": "0"}
    assert fleet.refusal(fleet.wish(Demand(blocks=1), Demand(blocks=4)), NoCapacity).metadata["demand"] == "0"


def test_102_what_is_kept_for_selectors_stays_within_its_bound_and_is_dropped_when_the_fleet_grows() -> None:
    fleet = PureFleet(8)
    index = fleet.state.index
    for n in range(2 * index_module.MAX_TERMS):
        assert index.matching((term(f"absent-{n}", "DOES_NOT_EXIST"),))
    assert len(index._terms) == index_module.MAX_TERMS

    fleet.add("n2")

    assert index.matching((term("absent-0", "DOES_NOT_EXIST"),)).bit_count() == 2
    assert len(index._terms) == 1


def test_103_a_fingerprint_does_not_depend_on_the_version_of_unicode() -> None:
    holder = "\xe9 \U0001fadf"  # Python 3.11 prints the first and escapes the second, which Python 3.14 prints, too

    digest = fingerprint(PureFleet().wish(holder=holder, token="t"))[1:9]

    assert digest == blake2b(rb"'\xe9 \U0001fadf'", digest_size=8).digest()


@pytest.mark.parametrize(
    "event",
    [
        InstanceCreated(4, START, "n1", 2, shape()),
        InstanceCreated(4, START, "n2", 1, shape()),
        InstanceUpdated(4, START, "n1", shape(2)),
        InstanceDeleted(4, START, "n1"),
        FleetDeleted(4, START),
    ],
    ids=["registered twice", "an order given twice", "shrunk under a holder", "gone under a holder", "no fleet left"],
)
def test_104_an_event_that_would_lose_a_held_block_or_an_instance_is_refused_by_memory(event: Event) -> None:
    fleet = PureFleet(4)
    fleet.take(Demand(blocks=3))

    with pytest.raises(Inconsistent):
        fleet.state.apply(event)

    assert fleet.busy == {"n1": 3}


def test_105_what_varies_in_a_refusal_of_a_fencing_token_is_in_its_metadata() -> None:
    fleet = PureFleet(4)
    held = fleet.acquire().revision

    refusal = fleet.refusal(Release("gpu", "slurm", held, fencing_token=777), StaleFencingToken)

    assert "777" not in refusal.message
    assert refusal.metadata == {"allocation": f"fleets/gpu/allocations/{held}", "fencing_token": str(held)}


def test_106_long_requests_are_not_kept_in_memory_for_their_fingerprints() -> None:
    fleet = PureFleet(4)
    names = tuple(f"node-{n}" for n in range(1000))
    fingerprint(fleet.wish(Demand(blocks=1)))  # what is remembered of a request that names no instance
    before = fingerprint_module._remembered.cache_info().currsize

    one, other = (fleet.wish(Demand(blocks=1, instance_names=names[n:])) for n in range(2))
    digests = fingerprint(one)

    assert fingerprint_module._remembered.cache_info().currsize == before
    assert fingerprint_module.differing_fields(digests, other) == ("demands",)


def test_107_blocks_that_are_held_beyond_their_instance_keep_the_fleet_out_of_memory() -> None:
    record = PureFleet(4).state.instance_record(PureFleet(4).state.index.by_name["n1"])

    with pytest.raises(Inconsistent, match="beyond the 4"):
        FleetState("gpu").restore(record, busy=0b1_0000)


def test_108_a_grant_beyond_an_instance_is_a_fault_of_the_journal() -> None:
    replay = Replay()
    fields: Any = ("job", "default", "a", b"", (("n1", (0, 4)),), None, None, {})
    replay.apply(InstanceCreated(1, START, "n1", 1, shape(4)))

    replay.apply(Granted(2, START, *fields))

    assert [(found.check, found.instance, found.actual) for found in replay.findings.discrepancies] == [
        (Check.JOURNAL, "n1", "block 4 granted")
    ]


@pytest.mark.parametrize("strategy", PlacementStrategy)
def test_109_requirements_on_a_fleet_without_instances_cannot_be_met(strategy: PlacementStrategy) -> None:
    fleet = PureFleet()
    asked = Demand(requirements=(("gpu", 8),))

    for demand in (asked, replace(asked, exclusive=True), replace(asked, instance_names=("n1",))):
        refusal = fleet.refusal(fleet.wish(demand, strategy=strategy), Unsatisfiable)
        assert refusal.metadata == {"demand": "0", "instances_needed": "1", "instances_fitting": "0"}

    fleet.add("n1")
    fleet.do(DeleteInstance("gpu", "n1"))
    fleet.refusal(fleet.wish(asked), Unsatisfiable)
