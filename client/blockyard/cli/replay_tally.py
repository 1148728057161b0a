"""Counts what a replayed log came to, and takes its digest. Pure: it is told the answers in their order.

A strategy cannot be judged by the accepted count alone (worst fit accepts more requests by refusing large ones), so the
tally also has the accepted block-seconds, the allocated share before the first refusal, and the refusals that came
although enough blocks were idle.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from blockyard.cli.replay_log import LoggedInstance, LoggedRequest


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """What a replay came to."""

    requests: int
    """How many were sent."""
    accepted: int
    """How many were granted."""
    refused: int
    """How many were not: `no_capacity + unsatisfiable`."""
    no_capacity: int
    """Refused because they did not fit then."""
    unsatisfiable: int
    """Refused because they would not fit even if everything were idle."""
    accepted_block_seconds: float
    """The granted blocks times the duration that the log gives, over all grants that it gives one for."""
    allocated_share_before_first_refusal: float | None
    """The part of all blocks that was held when the first request was refused, 0..1; `None`: none was refused."""
    refused_although_idle: int
    """Fragmentation: refusals while the fleet had as many idle blocks in total as the request asked for."""
    refused_although_matching_idle: int
    """The same, counting only blocks on instances whose label the request allows."""
    digest: str
    """16 hex digits over every outcome in the order of arrival."""


class ReplayTally:
    """Follows a replay, outcome by outcome. Each method is called once for each outcome, in the order of the log."""

    def __init__(self, instances: Sequence[LoggedInstance]) -> None:
        self._total = sum(instance.total_blocks for instance in instances)
        self._idle = {instance.name: instance.total_blocks for instance in instances}
        self._label = {instance.name: instance.label for instance in instances}
        self._idle_total = self._total
        self._held: dict[int, list[tuple[str, int]]] = {}
        self._hash = hashlib.sha256()
        self._accepted = 0
        self._no_capacity = 0
        self._unsatisfiable = 0
        self._block_seconds = Decimal(0)
        self._share_before_refusal: float | None = None
        self._refused_although_idle = 0
        self._refused_although_matching_idle = 0

    def granted(self, request: LoggedRequest, placements: Sequence[tuple[str, int]]) -> None:
        """The request holds blocks: how many on which instance, in the order in which the instances were chosen."""
        self._hash.update(f"{request.request_id}:{','.join(name for name, _ in placements)};".encode())
        self._accepted += 1
        self._held[request.row] = list(placements)
        self._move(placements, -1)
        if request.duration_s is not None:
            self._block_seconds += sum(blocks for _, blocks in placements) * request.duration_s

    def refused(self, request: LoggedRequest, *, unsatisfiable: bool) -> None:
        """The request was refused, and is gone."""
        self._hash.update(f"{request.request_id}:-;".encode())
        if self._share_before_refusal is None:
            self._share_before_refusal = (self._total - self._idle_total) / self._total
        if unsatisfiable:
            self._unsatisfiable += 1
            return
        self._no_capacity += 1
        wanted = request.instances * request.blocks
        self._refused_although_idle += self._idle_total >= wanted
        self._refused_although_matching_idle += self._matching_idle(request) >= wanted

    def released(self, request: LoggedRequest) -> None:
        """The granted request has given all its blocks back."""
        self._move(self._held.pop(request.row), 1)

    def figures(self) -> ReplayFigures:
        """The figures up to now."""
        refused = self._no_capacity + self._unsatisfiable
        return ReplayFigures(
            requests=self._accepted + refused,
            accepted=self._accepted,
            refused=refused,
            no_capacity=self._no_capacity,
            unsatisfiable=self._unsatisfiable,
            accepted_block_seconds=float(self._block_seconds),
            allocated_share_before_first_refusal=self._share_before_refusal,
            refused_although_idle=self._refused_although_idle,
            refused_although_matching_idle=self._refused_although_matching_idle,
            digest=self._hash.copy().hexdigest()[:16],
        )

    def _move(self, placements: Sequence[tuple[str, int]], sign: int) -> None:
        for name, blocks in placements:
            self._idle[name] += sign * blocks
            self._idle_total += sign * blocks

    def _matching_idle(self, request: LoggedRequest) -> int:
        if not request.any_label:
            return self._idle_total
        return sum(idle for name, idle in self._idle.items() if self._label[name] in request.any_label)
