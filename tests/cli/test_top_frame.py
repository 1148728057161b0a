"""A picture of `top` never has more lines or columns than the screen, and says what it leaves out."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from blockyard import BlockCounts, Event, EventKind, FleetPage, Hold, InstanceBlocks, InstanceState
from blockyard.cli.top_frame import EVENTS_KEPT, Frame, draw_frame

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def instance(number: int, *, total_blocks: int = 8, holders: int = 1) -> InstanceBlocks:
    holds = tuple(
        Hold(f"fleets/gpu/allocations/{holder}", f"holder-{number}-{holder}", (holder,)) for holder in range(holders)
    )
    return InstanceBlocks(
        instance=f"node-{number}",
        state=InstanceState.ACTIVE,
        total_blocks=total_blocks,
        busy_blocks=holders,
        idle_blocks=total_blocks - holders,
        holds=holds,
    )


def event(revision: int) -> Event:
    return Event(
        revision=revision,
        time=NOW,
        kind=EventKind.FLEET_UPDATED,
        allocation=None,
        instance="a-name-that-is-long " * 9,
        holder=None,
        placements=(),
        expire_time=None,
        idempotency_token=None,
        ended=False,
        fleet=None,
        instance_after=None,
        corrections=(),
    )


def frame(*instances: InstanceBlocks, height: int, of: int | None = None, events: int = 30, note: str = "") -> Frame:
    count = len(instances) if of is None else of
    totals = BlockCounts(count, 8 * count, count, 7 * count, 7 * count)
    page = FleetPage(fleet="gpu", revision=77, totals=totals, instances=instances, server_time=NOW, next_page_token="")
    return Frame(page, tuple(event(revision) for revision in range(1, events + 1)), height, note)


def plain(drawn: Frame, *, width: int = 80, footer: str = "q ends", ascii_only: bool = False) -> list[str]:
    return [line.plain for line in draw_frame(drawn, width=width, ascii_only=ascii_only, footer=footer)]


def test_a_small_fleet_is_shown_whole_with_its_latest_events() -> None:
    lines = plain(frame(instance(1), instance(2), height=30))

    assert lines[0] == "gpu at revision 77: 2 of 16 blocks busy, 14 idle"
    assert lines[2:4] == ["node-1  A·······  1 of 8 busy", "node-2  B·······  1 of 8 busy"]
    assert lines[5] == "A holder-1-0 (1)  B holder-2-0 (1)"
    assert [int(line.split()[0]) for line in lines[-11:-1]] == list(range(21, 31))
    assert lines[-1] == "q ends"


def test_names_in_the_events_leave_out_the_fleet() -> None:
    granted = replace(
        event(78), kind=EventKind.GRANTED, allocation="fleets/gpu/allocations/78", holder="job", instance=None
    )
    drawn = replace(frame(instance(1), height=30), events=(granted,))

    assert plain(drawn)[-2] == "    78  03:04:05  GRANTED           allocations/78 of job"


def test_a_large_fleet_is_cut_and_the_picture_says_by_how_much() -> None:
    lines = plain(frame(*[instance(number) for number in range(50)], height=24, of=100_000))

    shown = [line for line in lines if line.startswith("node-")]
    assert len(lines) <= 24
    assert f"… and {100_000 - len(shown)} more instances" in lines
    assert len(shown) > 5


@pytest.mark.parametrize("height", [*range(1, 12), 24, 39])
@pytest.mark.parametrize("width", [8, 40, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_picture_is_larger_than_its_screen(height: int, width: int, ascii_only: bool) -> None:  # noqa: FBT001 - a parameter
    many = [instance(number, total_blocks=500, holders=20) for number in range(height)]
    for drawn in (
        frame(*many, height=height, of=999, note="something to note"),
        frame(instance(1), height=height, events=0),
        frame(height=height),
    ):
        lines = draw_frame(drawn, width=width, ascii_only=ascii_only, footer="q ends")
        assert 1 <= len(lines) <= height
        assert all(line.cell_len <= width for line in lines)
        assert not ascii_only or all(line.plain.isascii() for line in lines)


def test_the_events_take_a_third_of_a_low_screen_and_never_more_than_is_kept() -> None:
    many = [instance(number) for number in range(99)]

    for height, events in ((12, 4), (24, 8), (99, EVENTS_KEPT)):
        lines = plain(frame(*many, height=height, of=999))
        assert sum("FLEET_UPDATED" in line for line in lines) == events


def test_a_note_stands_beside_the_footer() -> None:
    assert plain(frame(instance(1), height=9, note="the fleet was deleted"))[-1] == "the fleet was deleted  q ends"


def test_a_fleet_without_instances_says_so() -> None:
    assert "It has no instances yet." in plain(frame(height=9))
