"""Roles on patterns of fleets, as permissions on a fleet."""

from hypothesis import given
from hypothesis import strategies as st

from blockyard_server.domain.policy import (
    EVERYTHING,
    FULL_ACCESS,
    MAX_REMEMBERED_FLEETS,
    NOTHING,
    PERMISSIONS,
    Grant,
    Permission,
    Policy,
    Role,
)

names = st.text("ab-", min_size=1, max_size=4)
patterns = st.text("ab-*", min_size=1, max_size=4)
grants = st.builds(Grant, st.sampled_from(Role), st.lists(patterns, max_size=3).map(tuple))


def matches(pattern: str, name: str) -> bool:
    """What `*` means, spelt out."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(matches(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and name[0] == pattern[0] and matches(pattern[1:], name[1:])


@given(st.lists(grants, max_size=4), names)
def test_a_principal_has_what_its_grants_for_the_fleet_have_and_nothing_else(given_: list[Grant], fleet: str) -> None:
    wanted = NOTHING
    for grant in given_:
        if any(matches(pattern, fleet) for pattern in grant.fleets):
            wanted |= PERMISSIONS[grant.role]
    policy = Policy(given_)

    assert policy.on(fleet) == wanted
    assert policy.on(fleet) == wanted, "the second time, too"


def test_no_grant_and_no_fleet_is_nothing() -> None:
    assert Policy([]).on("gpu") == NOTHING
    assert Policy([Grant(Role.ADMIN, ())]).on("gpu") == NOTHING


def test_full_access_is_everything() -> None:
    assert FULL_ACCESS.on("gpu") == EVERYTHING == PERMISSIONS[Role.ADMIN]


def test_each_role_has_what_the_one_below_has() -> None:
    assert PERMISSIONS[Role.VIEWER] < PERMISSIONS[Role.AUDITOR] < PERMISSIONS[Role.OPERATOR] < PERMISSIONS[Role.ADMIN]
    assert PERMISSIONS[Role.VIEWER] < PERMISSIONS[Role.SCHEDULER] < PERMISSIONS[Role.OPERATOR]
    assert Permission.READ_HOLDERS not in PERMISSIONS[Role.SCHEDULER]


def test_names_that_are_asked_for_do_not_pile_up() -> None:
    policy = Policy([Grant(Role.VIEWER, ("a*",))])
    for number in range(MAX_REMEMBERED_FLEETS + 10):
        policy.on(f"a{number}")

    assert len(policy._known) <= MAX_REMEMBERED_FLEETS
    assert policy.on("a1") == PERMISSIONS[Role.VIEWER]
