"""Which PostgreSQL the database is in: a dump that was restored into another one finds another.

A restore to a point in time, and a fail-over, keep the system and begin a timeline: these two look the same, so that is
only logged.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.store.postgres import statements

_log = logging.getLogger(__name__)


class Remembered(NamedTuple):
    """The system and its timeline. None: not known, because the role may not ask for it."""

    system: str | None
    timeline: int | None

    def why_restored(self, found: "Remembered") -> str | None:
        """What shows that the database is a copy in another system; None if nothing does."""
        if self.system is None or found.system is None or self.system == found.system:
            return None
        return (
            f"the database was used in the PostgreSQL with system_identifier {self.system}, and this one's is "
            f"{found.system}"
        )

    def may_become(self, found: "Remembered") -> bool:
        """Whether what was found is to be remembered: it is no other system. A new timeline is logged."""
        if found.system is None or self.why_restored(found) is not None:
            return False
        if self.timeline is not None and found.timeline is not None and self.timeline < found.timeline:
            _log.warning(
                "PostgreSQL is on timeline %d, and was on %d: after a fail-over all is well; after a restore to "
                "a point in time stop all servers and run `blockyard admin restored`",
                found.timeline,
                self.timeline,
            )
        return True


def of_system(ask: Callable[[str], list[Any]]) -> Remembered:
    """What PostgreSQL says now."""
    return Remembered(_asked(ask, statements.SYSTEM_IDENTIFIER), _asked(ask, statements.TIMELINE))


def _asked(ask: Callable[[str], list[Any]], statement: str) -> Any:
    try:
        return ask(statement)[0][0]
    except StoreFailed as failure:
        _log.debug("PostgreSQL does not say which one it is: %s", failure)
        return None
