"""What clients were told, batch by batch: what a power cut must leave true."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Grant, ReleaseAnswer, Renewal
from blockyard_server.domain.requests import Acquire, Release, Request
from blockyard_server.engine.batch import Outcome

Rows = Mapping[str, Sequence[tuple[object, ...]]]
"""All that is in a database, by table."""

NEVER_US: Final = -1


@dataclass(frozen=True, slots=True)
class Promises:
    """What has been told when a batch was acknowledged."""

    steps: int
    """So many steps of the disk were done by then."""
    digest: str
    """Of every row of the database then."""
    now_us: int
    """The server's clock then."""
    allocations: Mapping[int, Allocation] = field(default_factory=dict)
    """Each allocation as it was last told."""
    acquires: Mapping[int, Acquire] = field(default_factory=dict)
    """The request that each was granted to."""
    cancelled: Mapping[str, int] = field(default_factory=dict)
    """Tokens that were released before they were granted, with the time."""
    forgotten_before_us: int = NEVER_US
    """What had ended before this may be forgotten."""
    in_doubt: bool = False
    """A batch had no answer yet: what it did may be found, and was told to nobody."""

    def may_be_forgotten(self, allocation: Allocation) -> bool:
        """Whether its row and its token's may be gone."""
        end_us = allocation.end_time_us if allocation.end_time_us is not None else allocation.expire_time_us
        return end_us is not None and end_us < self.forgotten_before_us

    def remembered_acquires(self) -> dict[int, Acquire]:
        """The requests whose tokens must still be known, by allocation."""
        return {
            number: request
            for number, request in self.acquires.items()
            if not self.may_be_forgotten(self.allocations[number])
        }

    def remembered_cancellations(self) -> list[str]:
        """The cancelled tokens that must still be known."""
        return sorted(token for token, time_us in self.cancelled.items() if time_us >= self.forgotten_before_us)


def after_batch(before: Promises, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> Promises:
    """The promises once these answers have been given as well."""
    allocations, acquires = dict(before.allocations), dict(before.acquires)
    cancelled = dict(before.cancelled)
    for request, outcome in zip(requests, outcomes, strict=True):
        match outcome:
            case Grant(view) | Renewal(view) | ReleaseAnswer(view=view) if view is not None:
                allocations[view.allocation.allocation] = view.allocation
                if isinstance(request, Acquire):
                    acquires[view.allocation.allocation] = request
            case ReleaseAnswer(time_us=time_us):
                assert isinstance(request, Release)
                assert request.token
                cancelled[request.token] = time_us
            case _:
                pass  # a refusal promises nothing
    return replace(before, allocations=allocations, acquires=acquires, cancelled=cancelled)


def digest_of(rows: Rows) -> str:
    """Equal for equal rows."""
    return hashlib.sha256(repr(sorted(rows.items())).encode()).hexdigest()
