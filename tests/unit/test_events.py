"""The journal's format, and what an event does to memory and records."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import (
    KINDS,
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)
from blockyard_server.domain.fleet import FleetState, Inconsistent
from blockyard_server.domain.requests import Demand, FleetFields
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.codec import EVENT_COLUMNS, Row, decode_journal, encode_journal
from tests.unit.pure_fleet import CORDONED, SECOND, START, WORST_FIT, PureFleet, shape

INSTANCE = shape(8, labels={"a": "b", "ü": ""}, resources={"gpu": 2**62}, state=CORDONED)
FLEET = FleetFields({"a": "b"}, WORST_FIT, 5, None)
PLACES = (("n2", (0, 7)), ("n1", (3,)))
GRANTED = Granted(7, START, "jöb", "slurm", "t", b"\x01\xff", PLACES, 9, START + 9, {"k": 'v"\n'})

EVERY_KIND: list[Event] = [
    FleetCreated(1, START, FLEET),
    FleetUpdated(2, START, FleetFields(max_ttl_us=3)),
    FleetDeleted(3, START),
    InstanceCreated(4, START, "n1", 12, INSTANCE),
    InstanceUpdated(5, START, "n1", INSTANCE),
    InstanceDeleted(6, START, "n1"),
    GRANTED,
    replace(GRANTED, ttl_us=None, expire_time_us=None, annotations={}),
    replace(GRANTED, exclusive=("n1",)),
    Released(8, START, 7, "jöb", PLACES, ()),
    Released(8, START, 7, "jöb", PLACES[:1], PLACES[1:]),
    Renewed(9, START, 7, "jöb", 5, START + 5),
    Expired(10, START, 7, "jöb", PLACES),
    TokenWasCancelled(11, START, "slurm", "t"),
    LeasesExtended(12, START, START + 10),
    Repaired(13, START, (Correction(CorrectionKind.COUNTER_SET, "n1", before=3, after=0),)),
    Restored(1_000_000_014, START, backup_revision=13, epoch=1),
    Repaired(13, START, tuple(Correction(kind, "n1", 7, 0) for kind in CorrectionKind)),
]


def row_of(event: Event, **changes: Any) -> Row:
    """The row as a store writes it."""
    row = dict(zip(EVENT_COLUMNS, encode_journal(event), strict=True))
    return tuple((row | changes).values())


def body_of(event: Event) -> str:
    """The part of a row that is JSON."""
    return str(row_of(event)[-1])


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: event.kind)
def test_an_event_is_the_same_after_having_been_a_row_of_the_journal(event: Event) -> None:
    assert decode_journal(row_of(event)) == event


def test_these_are_all_kinds() -> None:
    assert {event.kind for event in EVERY_KIND} == set(KINDS)
    assert len(KINDS) == len(set(KINDS)) == 14


def test_a_kind_that_this_version_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(InvariantBroken, match=r"event 3 is of kind 'TELEPORTED'"):
        decode_journal(row_of(FleetDeleted(3, START), kind="TELEPORTED"))


def test_fields_that_a_newer_version_added_do_not_disturb() -> None:
    row = row_of(LeasesExtended(12, START, START + 10), body=f'{{"expire_time_us":{START + 10},"reason":"new"}}')

    assert decode_journal(row) == LeasesExtended(12, START, START + 10)


def test_a_grant_makes_an_allocation_of_the_same_number() -> None:
    allocation = GRANTED.allocation()

    assert allocation == Allocation(
        allocation=7,
        holder="jöb",
        caller="slurm",
        token="t",
        granted=PLACES,
        placements=PLACES,
        ttl_us=9,
        grant_time_us=START,
        expire_time_us=START + 9,
        annotations={"k": 'v"\n'},
        revision=7,
    )


@pytest.mark.parametrize("gap", [-1, 0, 2])
def test_memory_takes_an_event_only_right_after_its_own_revision(gap: int) -> None:
    fleet = PureFleet(8)

    with pytest.raises(Inconsistent):
        fleet.state.apply(TokenWasCancelled(fleet.state.revision + gap, START, "slurm", "t"))


@pytest.mark.parametrize(
    "event",
    [
        replace(GRANTED, revision=4, placements=(("n1", (1, 2)),)),  # 1 is held
        replace(GRANTED, revision=4, placements=(("n1", (8,)),)),  # there is no block 8
        replace(GRANTED, revision=4, placements=(("n9", (0,)),)),
        Released(4, START, 3, "job", (("n1", (1, 2)),), ()),  # 2 is idle
        Expired(4, START, 3, "job", (("n9", (0,)),)),
        InstanceUpdated(4, START, "n9", shape()),
        InstanceDeleted(4, START, "n9"),
        Repaired(4, START, ()),  # what a repair changed is read anew
    ],
    ids=lambda event: event.kind,
)
def test_memory_refuses_an_event_that_does_not_follow_from_it(event: Event) -> None:
    fleet = PureFleet(8)
    fleet.acquire(Demand(blocks=2))

    with pytest.raises(Inconsistent):
        fleet.state.apply(event)


def test_leases_that_were_extended_may_end_no_earlier_than_that() -> None:
    fleet = PureFleet(8)
    fleet.acquire(ttl_us=SECOND)

    fleet.state.apply(LeasesExtended(fleet.state.revision + 1, START, START + 9 * SECOND))

    bound = fleet.state.next_expire_time_us
    assert bound is not None
    assert bound <= START + 9 * SECOND


def test_the_same_events_make_the_same_fleet() -> None:
    fleet = PureFleet(8, 4)
    held = fleet.acquire(Demand(blocks=3), ttl_us=SECOND).revision
    fleet.release(held, placements=(("n2", (1,)),))
    fleet.change("n1", state=CORDONED)
    twin = PureFleet(created=False)
    twin.state = FleetState("gpu")
    for event in fleet.events:
        twin.state.apply(decode_journal(row_of(event)))
        twin.records.apply(event)

    assert twin.picture() == fleet.picture()


def test_an_event_says_nothing_that_its_row_does_not() -> None:
    columns = {"revision", "time_us", "allocation", "instance", "holder"}
    for event in EVERY_KIND:
        names = {field.name for field in fields(event) if not field.kw_only} - columns - {"fields"}
        assert all(f'"{name}"' in body_of(event) for name in names)


def test_a_grant_of_a_journal_that_knew_no_exclusive_ones_owns_no_instance() -> None:
    granted = replace(GRANTED, exclusive=("n1",))
    body = {name: value for name, value in json.loads(body_of(granted)).items() if name != "exclusive"}

    assert decode_journal(row_of(granted, body=json.dumps(body))) == GRANTED


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: event.kind)
def test_an_event_says_who_asked_for_it_only_if_somebody_did(event: Event) -> None:
    """So journals of servers that ask nobody who he is are as they were before, byte for byte."""
    asked = replace(event, actor="train/sched-a", via="token:k3v9")

    assert decode_journal(row_of(asked, body=body_of(asked))) == asked
    assert {"actor", "via"} <= json.loads(body_of(asked)).keys()
    assert not {"actor", "via"} & json.loads(body_of(event)).keys()
