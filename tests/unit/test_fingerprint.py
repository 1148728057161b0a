"""Two Acquires with one token are the same request if every field is the same."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard_server.domain.fingerprint import FIELDS, VERSION, Field, differing_fields, fingerprint
from blockyard_server.domain.requests import Acquire, Demand
from tests.unit.pure_fleet import BEST_FIT, FIRST_FIT, term

DEMAND = Demand(2, 3, (), exclusive=False, selector=(term("a", "IN", "b", "c"),), instance_names=("n1", "n2"))
WISH = Acquire("gpu", "slurm", "t", "job", (DEMAND, Demand(blocks=1)), FIRST_FIT, 5, {"k": "v"})


def demanding(**changes: Any) -> Acquire:
    return replace(WISH, demands=(replace(DEMAND, **changes), Demand(blocks=1)))


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (replace(WISH, holder="Job"), "holder"),
        (replace(WISH, strategy=BEST_FIT), "placement_strategy"),
        (replace(WISH, strategy=None), "placement_strategy"),
        (replace(WISH, ttl_us=6), "ttl"),
        (replace(WISH, ttl_us=None), "ttl"),
        (replace(WISH, annotations={}), "annotations"),
        (replace(WISH, annotations={"k": "w"}), "annotations"),
        (replace(WISH, annotations={"kv": ""}), "annotations"),
        (replace(WISH, demands=WISH.demands[::-1]), "demands"),
        (replace(WISH, demands=WISH.demands[:1]), "demands"),
        (demanding(instances=3), "demands"),
        (demanding(blocks=4), "demands"),
        (demanding(requirements=(("gpu", 1),)), "demands"),
        (demanding(exclusive=True), "demands"),
        (demanding(selector=()), "demands"),
        (demanding(selector=(term("a", "NOT_IN", "b", "c"),)), "demands"),
        (demanding(selector=(term("a", "IN", "b"),)), "demands"),
        (demanding(selector=(term("ab", "IN", "c"),)), "demands"),
        (demanding(instance_names=("n1",)), "demands"),
        (demanding(instance_names=("n1n2",)), "demands"),
    ],
)
def test_each_field_matters_and_is_named(other: Acquire, field: str) -> None:
    assert differing_fields(fingerprint(WISH), other) == (field,)


@pytest.mark.parametrize(
    "other",
    [
        replace(WISH, token="another"),  # the token and its scope are what the record is found by
        replace(WISH, caller="kueue"),
        replace(WISH, validate_only=True),
    ],
)
def test_what_is_no_part_of_the_intent_does_not_matter(other: Acquire) -> None:
    assert fingerprint(other) == fingerprint(WISH)


def test_several_differing_fields_are_named_in_the_order_of_the_message() -> None:
    other = replace(WISH, annotations={}, holder="x", ttl_us=None)

    assert differing_fields(fingerprint(WISH), other) == ("holder", "ttl", "annotations")


ALL = ("holder", "demands", "placement_strategy", "ttl", "annotations")


def test_a_fingerprint_of_no_known_version_differs_in_everything() -> None:
    stored = fingerprint(WISH)

    assert stored[0] == 1
    assert differing_fields(b"", WISH) == ALL, "a token that Repair recorded again"
    assert differing_fields(b"\x02" + stored[1:] + b"12345678", WISH) == ALL


LATER = Field(
    "holder_shouts", 2, lambda request: request.holder.isupper(), lambda request: not request.holder.isupper()
)
"""A field as a later release may add it; its default is False."""


def test_a_fingerprint_of_an_older_version_is_compared_by_its_own_fields() -> None:
    stored = fingerprint(WISH)
    newer = (*FIELDS, LATER)

    assert differing_fields(stored, WISH, newer) == (), "the newer field has its default"
    assert differing_fields(stored, replace(WISH, ttl_us=6), newer) == ("ttl",)
    shouting = fingerprint(replace(WISH, holder="JOB"))
    assert differing_fields(shouting, replace(WISH, holder="JOB"), newer) == ("holder_shouts",)


def test_a_fingerprint_of_a_newer_version_has_a_digest_more() -> None:
    newer = (*FIELDS, LATER)
    stored = fingerprint(WISH, 2, newer)

    assert stored[0] == 2
    assert stored[1:-8] == fingerprint(WISH)[1:]
    assert differing_fields(stored, WISH, newer) == ()
    assert differing_fields(stored, replace(WISH, holder="JOB"), newer) == ("holder", "holder_shouts")


def test_a_version_only_adds_fields_and_a_newer_one_knows_its_default() -> None:
    versions = [field.since for field in FIELDS]

    assert versions == sorted(versions)
    assert versions[-1] == VERSION
    assert all(field.is_default(WISH) for field in FIELDS if field.since > 1)


def test_a_fingerprint_of_version_one_never_changes_because_stores_remember_it() -> None:
    assert fingerprint(WISH).hex() == (
        "0185ff07d879d16f09e154d5201532dda766226f5edc77610b8b54089fee8d99a076d65cb6325bc948"
    )


@given(st.text(), st.text())
def test_holders_have_the_same_fingerprint_only_if_they_are_equal(one: str, other: str) -> None:
    stored = fingerprint(replace(WISH, holder=one))

    assert (differing_fields(stored, replace(WISH, holder=other)) == ()) is (one == other)
