"""Who calls, once it is known: the principal that the edge sets before a handler runs."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from blockyard_server.domain.policy import FULL_ACCESS, Policy

DEFAULT_UNITS_PER_S: Final = 0.0
"""No limit of the rate."""


@dataclass(frozen=True, slots=True)
class PrincipalLimits:
    """What one principal may use at once. Zero: no limit of its own."""

    units_per_s: float = DEFAULT_UNITS_PER_S
    burst: float = 0.0
    """How many units it may use at once after a rest."""
    calls: int = 1024
    """Calls under way at once."""
    page_reads: int = 16
    watches: int = 200
    verifies: int = 2


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `ANONYMOUS` is everybody where the server has no auth file."""

    id: str
    """Its name in the auth file, such as `sched-a`."""
    tenant: str
    """Owner of what it acquires."""
    via: str
    """How it proved who it is: `token:k3v9`, `jwt:k8s`, `spiffe://corp.example/…`, `socket`."""
    policy: Policy = FULL_ACCESS
    callers: frozenset[str] = frozenset()
    """Values of `blockyard-caller` from before identities that it owns."""
    weight: int = 1
    """Its tenant's share of the writer."""
    limits: PrincipalLimits = field(default_factory=PrincipalLimits)
    expires_s: float | None = None
    """When its credentials end, in seconds since the epoch; None: not by themselves."""

    @property
    def name(self) -> str:
        """As the journal shows it."""
        return f"{self.tenant}/{self.id}"


ANONYMOUS: Final = Principal("anonymous", "anonymous", "none")
"""Everybody, where nobody is asked. It may do everything, and names its caller itself."""

_current: ContextVar[Principal | None] = ContextVar("principal", default=None)


def current_principal() -> Principal:
    """Whose call this is. Raises LookupError outside of a call, so that a forgotten step gives nobody any rights."""
    principal = _current.get()
    if principal is None:
        raise LookupError("no principal is known here: this call has not passed the authentication")
    return principal


def set_principal(principal: Principal) -> None:
    """For the rest of this call's task."""
    _current.set(principal)
