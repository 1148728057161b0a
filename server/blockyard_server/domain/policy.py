"""Who may do what on which fleets: few fixed roles, granted for patterns of fleet names.

A policy is a principal's grants, compiled to one set of permissions for each fleet that it is asked about. There is no
rule language: five roles are read by people, and a wrong rule is not silently dead (docs/adr/0026).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

MAX_REMEMBERED_FLEETS: Final = 10_000
"""A policy remembers its answer for so many fleets: names come from outside, and must not pile up."""
EVERY_FLEET: Final = "*"


class Permission(IntFlag):
    """What a principal may do on a fleet. Each RPC needs one of them (`rpc/authorization.py` has the table)."""

    READ = 1
    """See the fleet, its instances and which blocks are busy."""
    READ_HOLDERS = 2
    """See who holds what, also other tenants: holders, tokens, annotations."""
    ACQUIRE = 4
    """Acquire; renew and release what the own tenant holds."""
    RELEASE_ANY = 8
    """Release what another tenant holds. Nobody renews for another tenant."""
    INSTANCES = 16
    """Create, update, cordon and delete instances."""
    VERIFY = 32
    """Have the records of a fleet compared."""
    PLAN_REPAIR = 64
    """See what a repair would change."""
    REPAIR = 128
    """Have a repair carried out."""
    FLEETS = 256
    """Create, update and delete fleets."""


NOTHING: Final = Permission(0)
EVERYTHING: Final = Permission(sum(Permission))


class Role(StrEnum):
    """A set of permissions, as the auth file grants it."""

    VIEWER = "viewer"
    AUDITOR = "auditor"
    SCHEDULER = "scheduler"
    OPERATOR = "operator"
    ADMIN = "admin"


_VIEW: Final = Permission.READ
_AUDIT: Final = _VIEW | Permission.READ_HOLDERS | Permission.VERIFY
_SCHEDULE: Final = _VIEW | Permission.ACQUIRE
_OPERATE: Final = _AUDIT | _SCHEDULE | Permission.RELEASE_ANY | Permission.INSTANCES | Permission.PLAN_REPAIR

PERMISSIONS: Final[Mapping[Role, Permission]] = MappingProxyType(
    {
        Role.VIEWER: _VIEW,
        Role.AUDITOR: _AUDIT,
        Role.SCHEDULER: _SCHEDULE,
        Role.OPERATOR: _OPERATE,
        Role.ADMIN: _OPERATE | Permission.REPAIR | Permission.FLEETS,
    }
)


@dataclass(frozen=True, slots=True)
class Grant:
    """A role on the fleets whose names match one of the patterns: `*` stands for any characters, also none."""

    role: Role
    fleets: tuple[str, ...]

    def covers(self, fleet: str) -> bool:
        """Whether one of the patterns matches the fleet's name."""
        return any(fnmatchcase(fleet, pattern) for pattern in self.fleets)


class Policy:
    """What one principal may do. Asking is cheap: the answer for a fleet is worked out once."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.grants = tuple(grants)
        self._known: dict[str, Permission] = {}

    def on(self, fleet: str) -> Permission:
        """The permissions on this fleet, whether or not it exists."""
        found = self._known.get(fleet)
        if found is None:
            found = NOTHING
            for grant in self.grants:
                if grant.covers(fleet):
                    found |= PERMISSIONS[grant.role]
            if len(self._known) >= MAX_REMEMBERED_FLEETS:
                self._known.clear()
            self._known[fleet] = found
        return found


FULL_ACCESS: Final = Policy([Grant(Role.ADMIN, (EVERY_FLEET,))])
"""Of who is not asked for an identity, and of the admin socket."""
