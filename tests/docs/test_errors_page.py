"""docs/reference/errors.md is complete: every reason, with the status, the metadata, a meaning, and what to do next."""

import re
from dataclasses import dataclass

import pytest

from blockyard.reasons import REASONS, Reason
from blockyard.v1.errors_pb2 import ErrorReason
from tests.docs.page_runner import ROOT


@dataclass(frozen=True, slots=True)
class Row:
    reason: str
    status: str
    metadata: frozenset[str]
    meaning: str
    what_to_do: str


@dataclass(frozen=True, slots=True)
class ProtoValue:
    reason: str
    status: str
    metadata: frozenset[str]


def rows_of_the_page() -> list[Row]:
    lines = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [Row(reason.strip("`"), status, names_in(metadata), *rest) for reason, status, metadata, *rest in cells]


def values_of_the_proto() -> list[ProtoValue]:
    proto = (ROOT / "protos" / "blockyard" / "v1" / "errors.proto").read_text(encoding="utf-8")
    values = []
    for comment, name in re.findall(r"((?:  //.*\n)+)  (\w+) = [1-9]\d*;", proto):
        text = re.sub(r"\s*//\s*", " ", comment).strip()
        status, _, rest = text.partition(".")
        values.append(ProtoValue(name, status, names_in(rest.partition("Metadata:")[2])))
    return values


def names_in(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"`(\w+)`", text))


def test_the_page_has_every_reason_once_in_the_order_of_the_table() -> None:
    assert [row.reason for row in rows_of_the_page()] == [reason.value for reason in Reason]


def test_the_table_has_every_value_of_the_proto_enum() -> None:
    unspecified, *reasons = ErrorReason.keys()

    assert unspecified == "ERROR_REASON_UNSPECIFIED"
    assert reasons == [reason.value for reason in REASONS]
    assert list(Reason) == list(REASONS)


def test_the_page_says_the_status_that_the_table_says() -> None:
    assert {row.reason: row.status for row in rows_of_the_page()} == {
        reason.value: spec.status for reason, spec in REASONS.items()
    }


def test_the_comments_of_the_proto_say_the_status_that_the_table_says() -> None:
    assert {value.reason: value.status for value in values_of_the_proto()} == {
        reason.value: spec.status for reason, spec in REASONS.items()
    }


def test_the_page_names_the_metadata_that_the_comments_of_the_proto_name() -> None:
    assert {row.reason: row.metadata for row in rows_of_the_page()} == {
        value.reason: value.metadata for value in values_of_the_proto()
    }


@pytest.mark.parametrize("row", rows_of_the_page(), ids=lambda row: row.reason)
def test_the_page_says_what_a_reason_means_and_what_to_do_next(row: Row) -> None:
    assert row.meaning.endswith(".")
    assert row.what_to_do.endswith(".")


def test_only_what_is_unavailable_is_retried() -> None:
    assert {spec.status for spec in REASONS.values() if spec.retriable} == {"UNAVAILABLE"}
    assert all(spec.retriable for spec in REASONS.values() if spec.status == "UNAVAILABLE")
