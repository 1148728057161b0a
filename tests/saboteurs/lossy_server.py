"""`blockyard serve` that answers some changes without having committed them: `python -m tests.saboteurs.lossy_server
ORDER serve …`, where ORDER is what `tests.fault.dying_server` takes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.fault.dying_server import STORES, Countdown, run

LOST: Final = 25
"""The commit of every so-many-th transaction that writes is not made."""


class NotCommitted(Exception):
    """Ends a transaction without a commit, and reaches nobody."""


def lose_commits(store: Any) -> None:
    """Puts the fault into a store."""
    original = store.transaction
    written = count(1)

    @contextmanager
    def lossy(self: Any, fleet: str) -> Iterator[Any]:
        with suppress(NotCommitted), original(self, fleet) as transaction:
            yield transaction
            if transaction.wrote and next(written) % LOST == 0:
                raise NotCommitted

    store.transaction = lossy


if __name__ == "__main__":
    for store in STORES:
        lose_commits(store)
    run(Countdown(Path(sys.argv[1])))
