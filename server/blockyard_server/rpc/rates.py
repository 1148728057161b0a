"""What one principal may ask for: a rate of units, and so much at once of each kind. `prices.py` says what counts how.

A call above a limit is refused with RATE_LIMITED, which says when to try again; nothing was done. A limit belongs to a
principal, never to an address: behind a proxy all clients have the same one. Without an auth file there are no limits
(docs/adr/0029).
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from google.protobuf.message import Message

from blockyard_server.engine.bounded_names import BoundedNames
from blockyard_server.engine.failures import RateLimited
from blockyard_server.rpc.auth.principal import Principal, PrincipalLimits, current_principal
from blockyard_server.rpc.prices import PRICES, Kind, Price

MAX_ACCOUNTS: Final = 10_000
"""Of so many principals it is known what they have used lately; the names in JWTs come from outside."""
MAX_TENANTS_SHOWN: Final = 50
"""Tenants that are counted by their names, unless it is set."""
LEAST_WAIT_S: Final = 0.2
"""Who has too much under way comes back after so long, and up to `SPREAD_S` more, each at another moment."""
SPREAD_S: Final = 0.8

_dice: Final = random.SystemRandom()


class Bucket:
    """A token bucket. A call may take more than is in it, if it is full: then it is below zero for as long."""

    __slots__ = ("_at_s", "_burst", "_level", "_rate")

    def __init__(self, units_per_s: float, burst: float, now_s: float) -> None:
        self._rate = units_per_s
        self._burst = self._level = burst or units_per_s
        self._at_s = now_s

    def wait_s(self, units: float, now_s: float) -> float:
        """Takes so many units; or, if it would have to wait for them, takes none and says for how long."""
        burst = self._burst
        level = self._level + (now_s - self._at_s) * self._rate
        if level > burst:  # noqa: PLR1730 - each call of min takes a quarter of what all of this may take
            level = burst
        self._at_s = now_s
        missing = (units if units < burst else burst) - level  # noqa: FURB136 - as above
        if missing > 0:
            self._level = level
            return missing / self._rate
        self._level = level - units
        return 0.0

    def charge(self, units: float) -> None:
        """Takes so many units for what was done already."""
        self._level -= units

    def is_full(self, now_s: float) -> bool:
        """Whether a new bucket would be the same."""
        return self._level + (now_s - self._at_s) * self._rate >= self._burst


class Places:
    """Calls of one kind that a principal has under way."""

    __slots__ = ("account", "limit", "most", "taken")

    def __init__(self, account: "_Account", limit: str, most: int) -> None:
        self.account = account
        self.limit = limit
        self.most = most
        self.taken = 0

    def leave(self) -> None:
        """One has ended."""
        self.taken -= 1

    def charge(self, units: float) -> None:
        """The call that has ended had more units than was known before."""
        if self.account.bucket is not None:
            self.account.bucket.charge(units)


class _Account:
    """What one principal uses."""

    __slots__ = ("bucket", "limits", "places", "used_s")

    def __init__(self, limits: PrincipalLimits, now_s: float) -> None:
        # Renewals and releases have places of their own, as many as other calls: however much else is under way.
        most = {
            Kind.CONTROL: ("calls", limits.calls),
            Kind.CALL: ("calls", limits.calls),
            Kind.PAGE_READ: ("page_reads", limits.page_reads),
            Kind.WATCH: ("watches", limits.watches),
            Kind.VERIFY: ("verifies", limits.verifies),
        }
        self.places = [Places(self, *most[kind]) for kind in Kind]
        self.used_s = now_s
        self.limits = limits
        self.bucket = _bucket(limits, now_s)

    def set_limits(self, limits: PrincipalLimits, now_s: float) -> None:
        """The auth file was read again. What has changed counts from now on."""
        if limits != self.limits:
            for places in self.places:
                places.most = getattr(limits, places.limit)
            self.bucket = _bucket(limits, now_s)
        self.limits = limits

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is lost with it."""
        return not self.is_under_way() and (self.bucket is None or self.bucket.is_full(now_s))

    def is_under_way(self) -> bool:
        """Whether it has calls under way."""
        return any(places.taken for places in self.places)


def _bucket(limits: PrincipalLimits, now_s: float) -> Bucket | None:
    return Bucket(limits.units_per_s, limits.burst, now_s) if limits.units_per_s else None


Enter = Callable[[Message], Places | None]
"""Begins a call: the places that it takes one of, or None if it is not counted. Raises RateLimited."""


class Rates:
    """The accounts of all principals. For one event loop."""

    def __init__(
        self, monotonic_s: Callable[[], float] = time.monotonic, most_tenants: int = MAX_TENANTS_SHOWN
    ) -> None:
        """So many tenants are counted by name."""
        self._monotonic_s = monotonic_s
        self._accounts: dict[str, _Account] = {}
        self.refused: Counter[str] = Counter(dict.fromkeys((each.name for each in fields(PrincipalLimits)), 0))
        """Calls that were refused, by the name of the limit."""
        del self.refused["burst"]  # the limit is the rate's
        self.tenants = BoundedNames(most_tenants)
        """Which tenants are counted by name."""
        self.units: Counter[str] = Counter()
        """What calls of known principals have cost, by tenant."""
        self.throttled: Counter[str] = Counter()
        """Their calls that were refused, by tenant."""

    def __len__(self) -> int:
        return len(self._accounts)

    def entrance(self, method: str) -> Enter:
        """For the calls of a method, by its full name. Raises KeyError if it has no price."""
        pricing = PRICES[method]
        if pricing is None:
            return lambda _request: None

        def enter(request: Message) -> Places | None:
            principal = current_principal()
            if not principal.is_known:
                return None
            return self._take(principal, pricing if isinstance(pricing, Price) else pricing(request))

        return enter

    def _take(self, principal: Principal, price: Price) -> Places:
        now_s = self._monotonic_s()
        account = self._accounts.get(principal.name)
        if account is None:
            account = self._open(principal, now_s)
        elif account.limits is not principal.limits:
            account.set_limits(principal.limits, now_s)
        account.used_s = now_s
        kind, units = price
        places = account.places[kind]
        if places.taken >= places.most:
            raise self._too_many(principal, places)
        if units and account.bucket is not None:
            wait_s = account.bucket.wait_s(units, now_s)
            if wait_s:
                raise self._too_fast(principal, units, wait_s)
        places.taken += 1
        self.units[self.tenants.note(principal.tenant)] += units  # type: ignore[assignment]  # it may hold fractions
        return places

    def _open(self, principal: Principal, now_s: float) -> _Account:
        if len(self._accounts) >= MAX_ACCOUNTS:
            self._close_idle(now_s)
        account = self._accounts[principal.name] = _Account(principal.limits, now_s)
        return account

    def _close_idle(self, now_s: float) -> None:
        """Forgets accounts that a new one would equal; if that is too few, those that were unused for longest."""
        self._accounts = {name: each for name, each in self._accounts.items() if not each.is_idle(now_s)}
        surplus = len(self._accounts) - MAX_ACCOUNTS * 3 // 4
        if surplus > 0:
            # Those with calls under way stay; there are never more of them than calls.
            resting = [(each.used_s, name) for name, each in self._accounts.items() if not each.is_under_way()]
            for _, name in sorted(resting)[:surplus]:
                del self._accounts[name]

    def _note_refusal(self, principal: Principal, limit: str) -> None:
        self.refused[limit] += 1
        self.throttled[self.tenants.note(principal.tenant)] += 1

    def _too_many(self, principal: Principal, places: Places) -> RateLimited:
        self._note_refusal(principal, places.limit)
        message = (
            f"{principal.id} has {places.taken} {places.limit.replace('_', ' ')} under way, the most that it may have; "
            "nothing was done: ask again when one has ended"
        )
        wait_s = LEAST_WAIT_S + _dice.random() * SPREAD_S
        return RateLimited(message, wait_s=wait_s, limit=places.limit, maximum=places.most)

    def _too_fast(self, principal: Principal, units: float, wait_s: float) -> RateLimited:
        self._note_refusal(principal, "units_per_s")
        rate = principal.limits.units_per_s
        message = (
            f"{principal.id} has used up its rate of {rate:g} units a second, and this call has {units:g}; nothing was "
            f"done: ask again in {wait_s:.3f} s"
        )
        return RateLimited(message, wait_s=wait_s, limit="units_per_s", maximum=rate)
