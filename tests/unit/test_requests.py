"""Selectors, as Kubernetes has them; and what a decision needs to have looked up."""

import pytest

from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    DeleteFleet,
    DeleteInstance,
    Demand,
    FleetFields,
    InstanceFields,
    Operator,
    Release,
    Renew,
    Request,
    UpdateFleet,
    UpdateInstance,
)
from tests.unit.pure_fleet import term


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    [
        ("IN", ("a100", "h100"), {"gpu": "h100"}, True),
        ("IN", ("a100",), {"gpu": "h100"}, False),
        ("IN", ("a100",), {}, False),
        ("IN", ("",), {"gpu": ""}, True),
        ("IN", ("",), {}, False),
        ("NOT_IN", ("a100",), {"gpu": "h100"}, True),
        ("NOT_IN", ("a100", "h100"), {"gpu": "h100"}, False),
        ("NOT_IN", ("a100",), {}, True),  # an absent key is in no set
        ("EXISTS", (), {"gpu": ""}, True),
        ("EXISTS", (), {"other": "x"}, False),
        ("DOES_NOT_EXIST", (), {"other": "x"}, True),
        ("DOES_NOT_EXIST", (), {"gpu": ""}, False),
    ],
)
def test_a_term_matches_as_in_kubernetes(
    operator: Operator, values: tuple[str, ...], labels: dict[str, str], *, matches: bool
) -> None:
    assert term("gpu", operator, *values).matches(labels) is matches


FIELDS = InstanceFields(8)


@pytest.mark.parametrize(
    ("request_", "token_key", "allocation_id"),
    [
        (Acquire("f", "slurm", "t", "job", (Demand(blocks=1),)), ("slurm", "t"), None),
        (Release("f", "slurm", token="t"), ("slurm", "t"), None),
        (Release("f", "slurm", 7), None, 7),
        (Renew("f", 7), None, 7),
        (CreateFleet("f", FleetFields()), None, None),
        (UpdateFleet("f"), None, None),
        (DeleteFleet("f"), None, None),
        (CreateInstance("f", "n", FIELDS), None, None),
        (UpdateInstance("f", "n"), None, None),
        (DeleteInstance("f", "n"), None, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_request_says_which_records_its_decision_needs(
    request_: Request, token_key: tuple[str, str] | None, allocation_id: int | None
) -> None:
    assert (request_.token_key, request_.allocation_id) == (token_key, allocation_id)
