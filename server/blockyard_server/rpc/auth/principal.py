"""Who calls, once it is known: the principal that the edge sets before a handler runs."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from blockyard_server.domain.actor import SEPARATOR, Actor
from blockyard_server.domain.policy import FULL_ACCESS, Permission, Policy
from blockyard_server.engine.asker import Asker


@dataclass(frozen=True, slots=True)
class PrincipalLimits:
    """What one principal may use at once."""

    units_per_s: float = 0.0
    """Its rate. Zero: no limit of the rate."""
    burst: float = 0.0
    """How many units it may use at once, after a time without calls."""
    calls: int = 1024
    """Calls under way at once."""
    page_reads: int = 16
    watches: int = 200
    verifies: int = 2


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. Without an auth file every caller is `ANONYMOUS`."""

    id: str
    """Its name in the auth file, such as `sched-a`."""
    tenant: str
    """Owner of what it acquires."""
    via: str
    """How it proved who it is: `token:k3v9`, `jwt:k8s`, `spiffe://corp.example/…`, `socket`."""
    policy: Policy = FULL_ACCESS
    callers: frozenset[str] = frozenset()
    """Values of `blockyard-caller` from before identities that its tenant owns, too."""
    weight: int = 1
    """Its tenant's share of the writer."""
    limits: PrincipalLimits = field(default_factory=PrincipalLimits)
    expires_s: float | None = None
    """When its credentials end, in seconds since the epoch; None: not by themselves."""
    is_known: bool = True
    """It has proved who it is. Only `ANONYMOUS` has not."""
    asker: Asker = field(init=False, repr=False, compare=False)
    """Whose share of the writers its requests take. Of `ANONYMOUS` the caller that each call names."""
    _actors: tuple[Actor, Actor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Makes what its requests carry, once for all of them."""
        name = f"{self.tenant}{SEPARATOR}{self.id}"
        own, any_ = (Actor(name, self.via, self.tenant, self.callers, may_release_any=may) for may in (False, True))
        object.__setattr__(self, "_actors", (own, any_))
        object.__setattr__(self, "asker", Asker(self.tenant, self.weight, self.is_known))

    @property
    def name(self) -> str:
        """As the journal and the audit log show it."""
        return self._actors[0].name

    def actor_on(self, fleet: str) -> Actor | None:
        """What its requests on this fleet carry; None without an auth file."""
        if not self.is_known:
            return None
        return self._actors[Permission.RELEASE_ANY in self.policy.on(fleet)]

    def owns(self, caller: str) -> bool:
        """Whether an allocation or a token of this caller is its tenant's. Nobody's is hidden from `ANONYMOUS`."""
        return not self.is_known or self._actors[0].owns(caller)

    def caller(self, named: str | None) -> str:
        """Whose tokens a call uses that names this `blockyard-caller`, or none.

        A known principal has its tenant's, a namespace below its tenant, or one from before that it owns.
        """
        if not self.is_known:
            return DEFAULT_CALLER if named is None else named
        if named is None or named == self.tenant:
            return self.tenant
        return named if named in self.callers else f"{self.tenant}{SEPARATOR}{named}"


DEFAULT_CALLER: Final = "default"
"""The caller of calls that name none, without an auth file."""
ANONYMOUS: Final = Principal("anonymous", "anonymous", "none", is_known=False)
"""Every caller, without an auth file. It may do everything, and names its caller itself."""

_current: ContextVar[Principal | None] = ContextVar("principal", default=None)

set_principal: Final = _current.set
"""For the rest of this call's task."""


def current_principal() -> Principal:
    """Whose call this is. Raises LookupError outside of a call, so that a forgotten step grants no rights."""
    principal = _current.get()
    if principal is None:
        raise LookupError("no principal is known here: this call has not passed the authentication")
    return principal


def forget_principal() -> None:
    """From here on the call has no principal, until one is set."""
    _current.set(None)


def principal_so_far() -> Principal | None:
    """Whose call this is, or None before that is known."""
    return _current.get()
