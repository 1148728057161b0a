"""The rules of leases: how long one is granted and renewed for, when it ends, and when a start extends it. Pure.

Times are microseconds since the epoch by the fleet's clock; None for an allocation that is held until it is released.
"""

from typing import NamedTuple

from blockyard_server.domain.requests import FleetFields


class Lease(NamedTuple):
    """Until when, and for how long it was last granted or renewed."""

    ttl_us: int
    expire_time_us: int


def lease_ended(expire_time_us: int | None, now_us: int) -> bool:
    """Whether a lease has ended: at its expire time it has. None never ends."""
    return expire_time_us is not None and expire_time_us <= now_us


def granted_ttl_us(fields: FleetFields, asked_us: int | None) -> int | None:
    """The lease that is granted: what was asked or the fleet's default, at most the fleet's longest."""
    wanted = fields.default_ttl_us if asked_us is None else asked_us
    if fields.max_ttl_us is None:
        return wanted
    return fields.max_ttl_us if wanted is None else min(wanted, fields.max_ttl_us)


def renewed_lease(lease: Lease, fields: FleetFields, asked_us: int | None, now_us: int) -> Lease | None:
    """A lease after its renewal by what was asked, or by its own TTL; None where that would not make it longer."""
    wanted = lease.ttl_us if asked_us is None else asked_us
    ttl_us = wanted if fields.max_ttl_us is None else min(wanted, fields.max_ttl_us)
    return Lease(ttl_us, now_us + ttl_us) if now_us + ttl_us > lease.expire_time_us else None


def extended_us(expire_time_us: int, ttl_us: int, now_us: int, until_us: int) -> int:
    """When a lease ends after a start of the server at `now_us` with a grace until `until_us`.

    As if it were renewed now, but no later than the grace; never sooner than it would.
    """
    return max(expire_time_us, min(now_us + ttl_us, until_us))


def ended_us(expire_time_us: int | None, noticed_us: int) -> int:
    """When an expired allocation ended: with its lease, whenever a server noticed it."""
    return noticed_us if expire_time_us is None else expire_time_us
