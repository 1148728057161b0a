"""The forms of values in JSON and in text."""

from datetime import UTC, datetime, timedelta

import pytest

from blockyard.cli.output import document, print_table, write_blocks, write_duration
from blockyard.enums import InstanceState
from blockyard.types import BlockCounts, Placement


def test_a_value_of_the_sdk_becomes_an_object_with_the_same_field_names() -> None:
    assert document(BlockCounts(1, 8, 6, 2, 2)) == {
        "instances": 1,
        "total_blocks": 8,
        "busy_blocks": 6,
        "idle_blocks": 2,
        "acquirable_blocks": 2,
    }
    assert document({"placements": (Placement("node-1", (0, 1)),)}) == {
        "placements": [{"instance": "node-1", "blocks": [0, 1]}]
    }


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC), "2026-01-02T03:04:05.250000Z"),
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=100), "100s"),
        (timedelta(milliseconds=1500), "1.5s"),
        (timedelta(), "0s"),
        (InstanceState.CORDONED, "CORDONED"),
        (None, None),
        (True, True),
    ],
)
def test_times_durations_and_enums_have_one_form(value: object, form: object) -> None:
    assert document(value) == form


def test_what_has_no_form_is_a_fault_and_not_a_guess() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        document(object())


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=5400), "1h30m"),
        (timedelta(days=2, seconds=1), "2d1s"),
        (timedelta(milliseconds=250), "0.25s"),
        (timedelta(), "0s"),
        (None, "-"),
    ],
)
def test_durations_are_written_as_people_write_them(duration: timedelta | None, text: str) -> None:
    assert write_duration(duration) == text


@pytest.mark.parametrize(("blocks", "text"), [((0,), "0"), ((0, 1, 2), "0-2"), ((0, 2, 3, 7), "0,2-3,7"), ((), "")])
def test_runs_of_blocks_are_drawn_together(blocks: tuple[int, ...], text: str) -> None:
    assert write_blocks(blocks) == text


@pytest.mark.parametrize("force_colour", [False, True])
def test_a_table_in_a_pipe_has_a_row_on_each_line_however_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, force_colour: bool
) -> None:
    if force_colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    rows = [("node-1", "x" * 10_000, "end"), ("two\nlines", "[bold red]", "a\tb"), ("東京", "e\u0301", "")]

    print_table(("NAME", "LONG", "LAST"), rows, if_empty="none")

    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out] == ["NAME", "node-1", r"two\nlines", "東京"]
    assert out[1].endswith("x  end")
    assert r"a\tb" in out[2]
    assert "[bold red]" in out[2]
    # Columns begin at the same place of a terminal: the wide letters take two places each.
    assert out[3].index("e\u0301") == out[2].index("[bold red]") - 2
