"""Resource names (AIP-122), in both directions: `fleets/gpu/instances/node-1` and its ids.

An allocation's id is a positive decimal number without leading zeros, so that each has one name only.
"""

import re
from typing import Final

from blockyard_server.domain.limits import MAX_ID_LENGTH
from blockyard_server.rpc.fields import MAX_INT64, Violations, quoted

_ID: Final = rf"[a-z0-9](?:[a-z0-9._-]{{0,{MAX_ID_LENGTH - 2}}}[a-z0-9])?"
_match_id: Final = re.compile(_ID).fullmatch
_match_fleet: Final = re.compile(rf"fleets/({_ID})").fullmatch
_match_instance: Final = re.compile(rf"fleets/({_ID})/instances/({_ID})").fullmatch
_match_allocation: Final = re.compile(rf"fleets/({_ID})/allocations/([1-9][0-9]{{0,18}})").fullmatch

ID_RULE: Final = f"1..{MAX_ID_LENGTH} characters of [a-z0-9._-], beginning and ending with a letter or digit"


def _problem(form: str, value: str) -> str:
    if not value:
        return f"is required, as {form}"
    return f"must be {form}, each id {ID_RULE}; not {quoted(value)}"


def decode_id(value: str, path: str, bad: Violations) -> str:
    """An id that people choose."""
    if not _match_id(value):
        bad.append((path, f"must be {ID_RULE}; not {quoted(value)}" if value else "is required"))
    return value


def decode_fleet(name: str, path: str, bad: Violations) -> str:
    """The fleet's id out of its full name; empty if the name is malformed."""
    match = _match_fleet(name)
    if match is None:
        bad.append((path, _problem("fleets/{fleet}", name)))
        return ""
    return match[1]


def decode_instance(name: str, path: str, bad: Violations) -> tuple[str, str]:
    """The ids of the fleet and the instance out of the instance's full name; empty if it is malformed."""
    match = _match_instance(name)
    if match is None:
        bad.append((path, _problem("fleets/{fleet}/instances/{instance}", name)))
        return "", ""
    return match[1], match[2]


def decode_instance_of(fleet: str, name: str, path: str, bad: Violations) -> str:
    """The instance's id out of its full name, which must be in this fleet.

    An empty `fleet` was malformed itself, and is not compared.
    """
    named_fleet, instance = decode_instance(name, path, bad)
    if named_fleet and fleet and named_fleet != fleet:
        bad.append((path, f"must be in the request's fleet, fleets/{fleet}; not {quoted(name)}"))
    return instance


def decode_allocation(name: str, path: str, bad: Violations) -> tuple[str, int]:
    """The fleet's id and the allocation's out of the allocation's full name; empty if it is malformed."""
    match = _match_allocation(name)
    if match is None or int(match[2]) > MAX_INT64:
        bad.append((path, _problem("fleets/{fleet}/allocations/{allocation}, the allocation a number", name)))
        return "", 0
    return match[1], int(match[2])


def is_id(value: str) -> bool:
    """Whether this is an id that people may choose."""
    return _match_id(value) is not None


def encode_fleet_name(fleet: str) -> str:
    """The fleet's full name."""
    return f"fleets/{fleet}"


def encode_instance_name(fleet: str, instance: str) -> str:
    """The instance's full name."""
    return f"fleets/{fleet}/instances/{instance}"


def encode_allocation_name(fleet: str, allocation: int) -> str:
    """The allocation's full name; empty for id 0, an allocation that was only tried (`validate_only`)."""
    return f"fleets/{fleet}/allocations/{allocation}" if allocation else ""
