"""How a service may be deployed: the same behaviour is asked of each.

A test that is marked `every_deployment` runs once on each; `in_process.serving` looks up on which. Who claims a
deployment is held to it: when the claim ends, the database itself must have seen as many servers as were claimed, and
must hold what they wrote.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.harness.sessions import events_in, events_in_file, servers_on, url_for


@dataclass(slots=True)
class _Seen:
    """What was seen of one set of data."""

    url: str | None = None
    """Its database on PostgreSQL. None: it is a data file."""
    servers: int = 0
    """The most servers that used it at once."""
    events: int = 0
    """How many events its journal had when it was last served to the end."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the data is, and how many servers there are for it."""

    servers: int = 1
    database: Callable[[], str] | None = None
    """Makes an empty database on PostgreSQL, and gives its URL. None: a data file."""
    _places: dict[Path, _Seen] = field(default_factory=dict)

    def settings(self, folder: Path, server: int = 0) -> dict[str, Any]:
        """Where the server of this number keeps its data, as settings. A folder stands for one set of data."""
        if self.database is None:
            return {"data": _file(folder)}
        url = self._place(folder).url
        assert url is not None
        return {"database": url_for(url, server)}

    @property
    def is_claimed(self) -> bool:
        """Whether somebody will ask what was seen."""
        return self is not UNCLAIMED

    def databases(self) -> list[str]:
        """Those that were made."""
        return [place.url for place in self._places.values() if place.url is not None]

    def note_servers(self, folder: Path) -> None:
        """Asks the database how many servers use it. Call it while they serve."""
        place = self._place(folder)
        # A data file has one server at most: the next one is refused. Whether it was served shows in its journal.
        place.servers = max(place.servers, 1 if place.url is None else servers_on(place.url))

    def note_events(self, folder: Path) -> None:
        """Asks the database what was written. Call it when the servers have stopped."""
        place = self._place(folder)
        place.events = events_in_file(_file(folder)) if place.url is None else events_in(place.url)

    def expect_taken_place(self) -> None:
        """Raises AssertionError if what ran was not what this deployment claims."""
        what = "a data file" if self.database is None else "PostgreSQL"
        seen = self._places.values()
        assert any(place.events for place in seen), f"{what} is claimed, and no server has written anything there"
        servers = sorted(place.servers for place in seen)
        assert set(servers) == {self.servers}, f"{what} with {self.servers} servers is claimed; seen were {servers}"

    def _place(self, folder: Path) -> _Seen:
        if folder not in self._places:
            self._places[folder] = _Seen(None if self.database is None else self.database())
        return self._places[folder]


def _file(folder: Path) -> Path:
    return folder / "blockyard.db"


UNCLAIMED: Final = Deployment()
"""What a test that claims nothing runs on: a data file."""
_present: Final = [UNCLAIMED]


def present() -> Deployment:
    """The deployment of the test that runs."""
    return _present[-1]


@contextmanager
def deployed(deployment: Deployment) -> Iterator[Deployment]:
    """The block claims this one. Raises AssertionError if in the end it has not run on it."""
    with as_present(deployment):
        yield deployment
    deployment.expect_taken_place()


@contextmanager
def as_present(deployment: Deployment) -> Iterator[None]:
    """Has `present` say this one."""
    _present.append(deployment)
    try:
        yield
    finally:
        _present.pop()
