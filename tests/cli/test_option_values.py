"""Durations, pairs and blocks as people write them."""

from datetime import timedelta

import pytest

from blockyard.cli.option_values import MalformedValue, read_amounts, read_duration, read_pairs, read_placements


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("30", 30),
        ("0.5", 0.5),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1d2h3m4s5ms", 93_784.005),
        (" 10M ", 600),
        ("366d", 366 * 86_400),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert read_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 parsecs", "1h-3m", "1,5s", "10x", "nan", "inf", "1s2", "9" * 400])
def test_what_is_no_duration_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(MalformedValue, match=r"not a duration; write 500ms, 30s|longer than 366 days"):
        read_duration(text)


def test_a_duration_beyond_the_limit_is_refused() -> None:
    with pytest.raises(MalformedValue, match="longer than 366 days"):
        read_duration("367d")


def test_pairs_keep_what_is_behind_the_first_equals_sign() -> None:
    assert read_pairs(["a=1", "b=x=y", "c="], option="--label") == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a=1", "a=2"]])
def test_what_is_no_pair_is_refused_by_the_name_of_the_option(texts: list[str]) -> None:
    with pytest.raises(MalformedValue, match="--label"):
        read_pairs(texts, option="--label")


def test_amounts_are_whole_numbers() -> None:
    assert read_amounts(["gpu=2", "memory_mib=65536"], option="--require") == {"gpu": 2, "memory_mib": 65536}


@pytest.mark.parametrize("text", ["gpu=", "gpu=two", "gpu=-1", "gpu=1.5", "gpu=²"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(MalformedValue, match="whole number"):
        read_amounts([text], option="--require")


def test_blocks_are_read_with_runs_and_put_in_order() -> None:
    assert read_placements(["node-1:3,0-1", "node-2:7", "node-1:1"]) == {"node-1": (0, 1, 3), "node-2": (7,)}


@pytest.mark.parametrize("text", ["node-1", ":0", "node-1:", "node-1:a", "node-1:3-1", "node-1:4096", "node-1:0-9999"])
def test_what_is_no_run_of_blocks_is_refused(text: str) -> None:
    with pytest.raises(MalformedValue, match="--block"):
        read_placements([text])
