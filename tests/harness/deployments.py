"""How a service may be deployed: the same behaviour is asked of each.

A test that is marked `every_deployment` runs once on each; `in_process.serving` looks up on which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the data is, and how many servers there are for it."""

    servers: int = 1
    database: Callable[[], str] | None = None
    """Makes an empty database on PostgreSQL, and gives its URL. None: a data file."""
    _places: dict[Path, str] = field(default_factory=dict)

    def settings(self, folder: Path) -> dict[str, Any]:
        """Where a server keeps its data, as settings. A folder stands for one set of data, also for a restart."""
        if self.database is None:
            return {"data": folder / "blockyard.db"}
        if folder not in self._places:
            self._places[folder] = self.database()
        return {"database": self._places[folder]}

    def databases(self) -> list[str]:
        """Those that were made."""
        return list(self._places.values())


SQLITE: Final = Deployment()
"""What a test that is not marked runs on."""
_present: Final = [SQLITE]


def present() -> Deployment:
    """The deployment of the test that runs."""
    return _present[-1]


@contextmanager
def deployed(deployment: Deployment) -> Iterator[None]:
    """Has `present` say this one."""
    _present.append(deployment)
    try:
        yield
    finally:
        _present.pop()
