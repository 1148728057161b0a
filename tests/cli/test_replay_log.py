"""The order of a log's events is part of its digest; a log that cannot be read says where."""

from pathlib import Path

import pytest

from blockyard.cli.replay_log import EventKind, MalformedLog, events_in_order, read_instances, read_requests

HEADER = "id,arrival_s,duration_s,n_instances,blocks,label_any,owner,exclusive\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def order(path: Path, rows: str, *, hold: bool = False, limit: int | None = None) -> list[str]:
    requests = read_requests(write(path / "requests.csv", HEADER + rows), limit=limit)
    signs = {EventKind.ACQUIRE: "+", EventKind.RELEASE: "-"}
    return [signs[event.kind] + event.request.request_id for event in events_in_order(requests, hold=hold)]


def test_events_are_ordered_by_time_then_releases_first_then_by_row(tmp_path: Path) -> None:
    rows = "late,10,5,1,1,,o,\nb,0,10,1,1,,o,\nc,0,10,1,1,,o,\nat-ten,10,,1,1,,o,\n"

    assert order(tmp_path, rows) == ["+b", "+c", "-b", "-c", "+late", "+at-ten", "-late"]


def test_a_request_that_holds_nothing_for_long_is_released_before_the_next_of_its_instant(tmp_path: Path) -> None:
    assert order(tmp_path, "a,5,0,1,1,,o,\nb,5,1,1,1,,o,\nc,0,5,1,1,,o,\n") == ["+c", "-c", "+a", "-a", "+b", "-b"]


def test_hold_never_releases(tmp_path: Path) -> None:
    assert order(tmp_path, "a,0,1,1,1,,o,\nb,2,1,1,1,,o,\n", hold=True) == ["+a", "+b"]


def test_limit_takes_the_first_rows_of_the_file(tmp_path: Path) -> None:
    assert order(tmp_path, "a,5,,1,1,,o,\nb,0,,1,1,,o,\nc,0,,1,1,,o,\n", limit=2) == ["+b", "+a"]


def test_an_empty_arrival_means_together_with_the_row_before(tmp_path: Path) -> None:
    assert order(tmp_path, "a,7,,1,1,,o,\nb,,,1,1,,o,\nc,6,,1,1,,o,\n") == ["+c", "+a", "+b"]


def test_fractions_of_a_second_are_exact(tmp_path: Path) -> None:
    # As floats, 0.1 + 0.2 is later than 0.3, and the release would come behind the acquire.
    assert order(tmp_path, "a,0.1,0.2,1,1,,o,\nb,0.3,,1,1,,o,\n") == ["+a", "-a", "+b"]


def test_every_column_of_a_request_is_read(tmp_path: Path) -> None:
    [request] = read_requests(write(tmp_path / "r.csv", HEADER + "r1,1,2,3,4,x|y,me,1\n"))

    assert (request.instances, request.blocks, request.exclusive) == (3, 4, True)
    assert (request.any_label, request.owner) == (("x", "y"), "me")


def test_a_request_without_owner_is_its_own_holder(tmp_path: Path) -> None:
    [request] = read_requests(write(tmp_path / "r.csv", HEADER + "r1,0,,1,1,,,\n"))

    assert request.owner == "r1"


def test_instances_keep_the_order_of_the_file_and_other_columns_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "i.csv", "name,total_blocks,label,cpu\nz,8,P100,1\na,2,,2\n")

    assert [(row.name, row.total_blocks, row.label) for row in read_instances(path)] == [("z", 8, "P100"), ("a", 2, "")]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a,x,,1,1,,o,\n", "line 2: arrival_s must be a number of seconds"),
        ("a,0,-1,1,1,,o,\n", "line 2: duration_s must be a number of seconds"),
        ("a,0,nan,1,1,,o,\n", "duration_s"),
        ("a,0,,0,1,,o,\n", "n_instances must be a whole number from 1 to 1000, not '0'"),
        ("a,0,,1,5000,,o,\n", "blocks must be a whole number from 1 to 4096"),
        ("a,0,,1,,,o,\n", "blocks is empty"),
        ("a,0,,1,1,,o,yes\n", "exclusive must be 0 or 1"),
        (",0,,1,1,,o,\n", "id is empty"),
        ("a,0,,1,1,,o,\nb,0\n", "line 3: not as many fields"),
        ("a,0,,1,1,,o,,,,\n", "line 2: not as many fields"),
        ("", "no row below"),
        ('a,0,,1,1,,"o,\n', "not a CSV file"),
    ],
)
def test_a_malformed_request_is_named_with_its_line(tmp_path: Path, rows: str, sentence: str) -> None:
    with pytest.raises(MalformedLog) as refusal:
        read_requests(write(tmp_path / "requests.csv", HEADER + rows))
    assert sentence in str(refusal.value)
    assert "requests.csv" in str(refusal.value)


def test_a_log_without_the_columns_says_which_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MalformedLog, match="no column arrival_s, n_instances"):
        read_requests(write(tmp_path / "r.csv", "id,duration_s,blocks\na,1,1\n"))


def test_a_log_that_is_not_there_or_not_text_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MalformedLog, match="cannot be read: No such file"):
        read_instances(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(MalformedLog, match="UTF-8"):
        read_instances(tmp_path / "binary.csv")


def test_an_instance_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedLog, match="'a' comes twice"):
        read_instances(write(tmp_path / "i.csv", "name,total_blocks\na,1\na,2\n"))
