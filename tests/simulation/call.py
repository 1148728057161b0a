"""What a server is doing on a fleet: one call of its transactor, which may need several transactions."""

from collections.abc import Sequence

from blockyard_server.domain.events import Event
from blockyard_server.domain.requests import Request
from blockyard_server.engine.batch import Outcome
from tests.simulation.kernel import Violation


class Call:
    """Notes which transactions of a call were committed, and which answers they decided."""

    def __init__(self, server: str, kind: str, requests: Sequence[Request] = ()) -> None:
        self.server = server
        self.kind = kind
        self.requests = requests
        self.outcomes: list[Outcome] | None = None
        """What the transaction under way has decided; None: it decides nothing, or not yet."""
        self.now_us: int | None = None
        """The fleet's time by which it sweeps and decides."""
        self.dead = False
        """The server has ended meanwhile."""
        self._settled: list[list[Outcome]] = []
        self._changed = False
        """A transaction of this call that decided something has committed events."""
        self.in_doubt = False
        """The end of such a transaction got lost, and nobody has looked yet."""
        self._looked_in_vain = False

    def __str__(self) -> str:
        return f"{self.server} {self.kind}"

    def began(self) -> None:
        """A transaction has the lock."""
        self.outcomes = self.now_us = None

    def decided(self, outcomes: list[Outcome] | None, now_us: int) -> None:
        """The transaction under way has decided."""
        self.outcomes, self.now_us = outcomes, now_us

    def lost_sight(self) -> None:
        """The transaction's end got lost."""
        self.in_doubt = True

    def failed(self) -> None:
        """The transaction was rolled back, or never began."""
        if self.in_doubt and self.now_us is None:
            self._looked_in_vain = True

    def committed(self, events: Sequence[Event]) -> None:
        """The transaction under way is committed."""
        if self.now_us is None:
            return
        if self._changed and not self._looked_in_vain:
            raise Violation(f"{self}: a commit of its own was not recognised, and was made again")
        self._changed = self._changed or bool(events)
        if self.outcomes is not None:
            self._settled.append(self.outcomes)

    def answered(self, outcomes: list[Outcome]) -> None:
        """The call has come back with these."""
        if not any(outcomes is settled for settled in self._settled):
            raise Violation(f"{self}: answers that no committed transaction has decided")
