"""`blockyard serve` that kills itself at a named point: `python -m tests.fault.dying_server ORDER serve …`.

ORDER is a file that says when: `NTH POINT`, the nth passage from now on. It is read at the start and at each SIGUSR1,
and removed, so that an order is carried out by one process. The points are put around the parts from outside; the
server itself knows nothing of them.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.operations import Operations

from blockyard.cli import main
from blockyard_server.domain.fleet import FleetState
from blockyard_server.engine.batch import Attempt
from blockyard_server.engine.memory import FleetMemory
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writer import Writer
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite.store import SqliteStore

STORES: Final = (SqliteStore, PostgresStore)


class Countdown:
    """Kills the process when the point of its order has been passed as often as that says."""

    def __init__(self, order: Path) -> None:
        self._order = order
        self._point: str | None = None
        self._left = 0

    def read_order(self) -> None:
        """Takes the order, if there is one."""
        if self._order.exists():
            nth, _, self._point = self._order.read_text().partition(" ")
            self._left = int(nth)
            self._order.unlink()

    def passed(self, point: str) -> None:
        """The process is at this point."""
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _around(countdown: Countdown, owner: Any, name: str, what: str) -> None:
    """Puts `before …` and `after …` around a function or method, plain or a coroutine's."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        countdown.passed(f"before {what}")
        result = original(*args, **kwargs)
        countdown.passed(f"after {what}")
        return result

    setattr(owner, name, watched)


def _around_transaction(countdown: Countdown, store: Any) -> None:
    original = store.transaction

    @contextmanager
    def watched(self: Any, fleet: str) -> Iterator[Any]:
        countdown.passed("before begin")
        with original(self, fleet) as transaction:
            countdown.passed("after begin")
            tokens = transaction.tokens

            def looked_up(keys: Any) -> Any:
                countdown.passed("before token")
                found = tokens(keys)
                countdown.passed("after token")
                return found

            transaction.tokens = looked_up
            yield transaction
            countdown.passed("before commit")
        countdown.passed("after commit")

    store.transaction = watched


def _around_answer(countdown: Countdown) -> None:
    original = Writer._carry_out

    async def watched(self: Writer, fleet: str, tickets: Any) -> Any:
        again = await original(self, fleet, tickets)
        countdown.passed("after answer")
        return again

    Writer._carry_out = watched  # type: ignore[method-assign]  # that is what this program is for


def install(countdown: Countdown) -> None:
    """Puts every point in its place."""
    for store in STORES:
        _around_transaction(countdown, store)
    _around(countdown, Attempt, "write", "rows")
    _around(countdown, FleetState, "apply", "apply")
    _around(countdown, FleetMemory, "keep", "memory")
    _around(countdown, Transactor, "carry_out", "carrying out")
    _around(countdown, Transactor, "expire_due", "sweep")
    _around(countdown, Transactor, "extend_leases_on_takeover", "extending leases")
    _around(countdown, command, "upgrade", "migration")
    for operation in ("create_table", "execute", "create_index"):
        _around(countdown, Operations, operation, "migration's statement")
    _around_answer(countdown)


def run(countdown: Countdown) -> None:
    """The command, with the points in their places."""
    countdown.read_order()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: countdown.read_order())
    install(countdown)
    sys.argv[1:] = sys.argv[2:]
    main()


if __name__ == "__main__":
    run(Countdown(Path(sys.argv[1])))
