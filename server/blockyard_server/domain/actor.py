"""Who asks for a change: what the journal keeps of it, and whose allocations it may end."""

from dataclasses import dataclass

SEPARATOR = "/"
"""Between a tenant and a namespace of its own in `Allocation.caller`. No id has it, so no two owners collide."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The principal behind a request. A request without one comes from a server without an auth file."""

    name: str
    """As the journal shows it: `train/sched-a`."""
    via: str
    """How it proved that: `token:k3v9`, `jwt:k8s`, `spiffe://…`, `socket`."""
    tenant: str
    """It owns what it acquires in this tenant's name."""
    callers: frozenset[str] = frozenset()
    """Callers from the time before identities that its tenant owns, too."""
    may_release_any: bool = False
    """It may release what other tenants hold, on the fleet that the request names."""

    def owns(self, caller: str) -> bool:
        """Whether an allocation of this caller is the tenant's."""
        return caller.partition(SEPARATOR)[0] == self.tenant or caller in self.callers
