"""Drives a log through the service, as one of its clients, keeping the log's order exactly.

Many operations travel in one Batch, which carries them out one after the other. A release whose acquire is in the same
batch is by token, because the allocation has no name yet: if the acquire is refused, it frees nothing, and cancels a
token that is never used again. So what the service decides, and in which order, is the same as with one call at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import uuid4

from blockyard import operations
from blockyard._call import Operation
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.replay_log import EventKind, LogEvent, LoggedInstance, LoggedRequest
from blockyard.cli.replay_tally import ReplayTally
from blockyard.client import Client
from blockyard.enums import Operator, PlacementStrategy, ReleaseOutcome
from blockyard.errors import CallFailed, Ended, FleetNotFound, NoCapacity, Unsatisfiable
from blockyard.types import Demand, Expression, Grant, ReleaseResult, Renewal, Selector

LABEL: Final = "label"
"""The instance label that the log's labels become."""
MAX_OPERATIONS: Final = 1000
"""What a Batch takes at most."""
MAX_BLOCKS: Final = 16_384
"""What the acquires of a Batch may ask for in all, at most."""
CALL_TIMEOUT_S: Final = 60.0

_REPEATED_RELEASES: Final = frozenset({ReleaseOutcome.ALREADY_RELEASED, ReleaseOutcome.ALREADY_EXPIRED})


class Replay:
    """One run of a log. `advance` is called with the number of events that are done, for a progress bar."""

    def __init__(
        self,
        client: Client,
        fleet: str,
        tally: ReplayTally,
        *,
        strategy: PlacementStrategy,
        batch_size: int,
        advance: Callable[[int], object],
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._tally = tally
        self._strategy = strategy
        self._batch_size = batch_size
        self._advance = advance
        self._pending: list[LogEvent] = []
        self._pending_tokens: dict[int, str] = {}
        self._pending_blocks = 0
        self._names: dict[int, str] = {}
        self.calls = 0
        """How many calls it has taken."""

    def play(self, events: Iterable[LogEvent]) -> None:
        """Carries out every event of the log, in the order in which they come.

        Raises:
            CommandFailed: The service refused what it should not, or the connection broke at a place where going on
                might change the order.
            BlockyardError: A call failed as a whole.
        """
        for event in events:
            if event.kind is EventKind.ACQUIRE:
                self._add_acquire(event)
            else:
                self._add_release(event)
        self._send()

    def _add_acquire(self, event: LogEvent) -> None:
        blocks = event.request.instances * max(event.request.blocks, 1)
        if len(self._pending) >= self._batch_size or self._pending_blocks + blocks > MAX_BLOCKS:
            self._send()
        self._pending.append(event)
        self._pending_tokens[event.request.row] = str(uuid4())
        self._pending_blocks += blocks

    def _add_release(self, event: LogEvent) -> None:
        if len(self._pending) >= self._batch_size:
            self._send()
        if event.request.row in self._pending_tokens or event.request.row in self._names:
            self._pending.append(event)
        else:
            # It was refused: there is nothing to release.
            self._advance(1)

    def _send(self) -> None:
        if not self._pending:
            return
        events, self._pending = self._pending, []
        asked = [self._operation(event) for event in events]
        self._pending_tokens.clear()
        self._pending_blocks = 0
        answers = self._client.batch(asked, timeout_s=CALL_TIMEOUT_S)
        self.calls += 1
        _refuse_repetition(events, answers)
        for event, answer in zip(events, answers, strict=True):
            self._note(event.request, answer)
        self._advance(len(events))

    def _operation(self, event: LogEvent) -> Operation[Grant | ReleaseResult]:
        request = event.request
        token = self._pending_tokens.get(request.row)
        if event.kind is EventKind.ACQUIRE:
            return operations.acquire(
                self._fleet, demands=[_demand(request)], holder=request.owner, strategy=self._strategy, token=token
            )
        if token is not None:
            return operations.release_by_token(self._fleet, token)
        return operations.release(self._names.pop(request.row))

    def _note(self, request: LoggedRequest, answer: Grant | ReleaseResult | Renewal | CallFailed) -> None:
        match answer:
            case Grant(allocation=allocation):
                self._names[request.row] = allocation.name
                placements = [(placement.instance, len(placement.blocks)) for placement in allocation.placements]
                self._tally.granted(request, placements)
            case ReleaseResult(outcome=ReleaseOutcome.CANCELLED_BEFORE_GRANT):
                pass
            case ReleaseResult():
                self._names.pop(request.row, None)
                self._tally.released(request)
            case NoCapacity() | Unsatisfiable():
                self._tally.refused(request, unsatisfiable=isinstance(answer, Unsatisfiable))
            case CallFailed():
                raise CommandFailed(f"The log's request {request.request_id!r} failed ({answer.reason}): {answer}")
            case _:
                raise AssertionError(f"a replay never asks for {type(answer).__name__}")


def create_fresh_fleet(
    client: Client, fleet: str, instances: Sequence[LoggedInstance], *, advance: Callable[[int], object]
) -> None:
    """Makes the fleet and registers the instances, one after the other: that order is what strategies break ties by.

    Raises:
        CommandFailed: The fleet is there already.
    """
    try:
        client.get_fleet(fleet)
    except FleetNotFound:
        pass
    else:
        raise CommandFailed(
            f"The fleet {fleet} is there already, and a replay needs a fresh one.",
            next_step="Leave --fleet out, or name another.",
            exit_code=ExitCode.USAGE,
        )
    client.create_fleet(fleet, labels={"made-by": "replay"})
    for instance in instances:
        labels = {LABEL: instance.label} if instance.label else {}
        client.create_instance(fleet, instance.name, total_blocks=instance.total_blocks, labels=labels)
        advance(1)


def _demand(request: LoggedRequest) -> Demand:
    selector = None
    if request.any_label:
        selector = Selector(match_expressions=(Expression(LABEL, Operator.IN, request.any_label),))
    return Demand(
        instances=request.instances,
        blocks=request.blocks or None,
        exclusive=request.exclusive,
        selector=selector,
    )


def _refuse_repetition(
    events: Sequence[LogEvent], answers: Sequence[Grant | ReleaseResult | Renewal | CallFailed]
) -> None:
    """Raises `CommandFailed` if the batch was sent twice, and that may have changed the log's order.

    A batch whose answer was lost is sent again, which is harmless for what was granted and is still held: it is
    answered as recorded. But what was refused is decided again, perhaps after a release that comes behind it in the
    log, and what was granted and released in the batch is not told again.
    """
    repeated = any(
        (isinstance(answer, Grant) and answer.replayed)
        or (isinstance(answer, ReleaseResult) and answer.outcome in _REPEATED_RELEASES)
        or isinstance(answer, Ended)
        for answer in answers
    )
    refused = any(isinstance(answer, CallFailed) for answer in answers)
    released = any(event.kind is EventKind.RELEASE for event in events)
    if repeated and refused and released:
        raise CommandFailed(
            "The connection broke in the middle of the replay, so the order of the log may not have been kept.",
            next_step="Run it again.",
            exit_code=ExitCode.NO_ANSWER,
        )
