"""Notices that a fleet's revision went back: the server's data were restored, and nobody said so to the servers.

A grant that is no replay is a change, and makes a revision above every one that any server has answered before the
request was sent, whichever server carries it out. So only grants are judged. Other answers may tell of an older
revision (a replay, a renewal that extends nothing), or may be read before a change that this client knows by now.
"""

import threading
from typing import Any

from google.protobuf.message import Message

from blockyard.errors import HistoryWentBack
from blockyard.v1 import allocator_pb2 as pb

_NAMES = ("fleet", "parent", "allocation", "name")


class History:
    """The highest revision of each fleet that this client was told of. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}

    def before(self, request: Message) -> tuple[str, int]:
        """The request's fleet, and what is known of it before the request is sent."""
        fleet = _fleet_of(request)
        return fleet, self._seen.get(fleet, 0)

    def check(self, before: tuple[str, int], answer: Any) -> None:
        """Takes note of an answer. Raises HistoryWentBack."""
        fleet, seen = before
        revision = getattr(answer, "revision", 0)
        if not fleet or not revision:
            return
        if isinstance(answer, pb.AcquireResponse) and not answer.replayed and revision < seen:
            raise went_back(fleet, revision, seen)
        with self._lock:
            self._seen[fleet] = max(revision, self._seen.get(fleet, 0))


def went_back(fleet: str, revision: int, seen: int) -> HistoryWentBack:
    """The exception, with its sentence."""
    return HistoryWentBack(
        f"fleet {fleet} is at revision {revision}, and was at {seen}: the server's data were restored from a backup "
        "without `blockyard admin restored`. What this client holds may be somebody else's by now"
    )


def _fleet_of(request: Message) -> str:
    for field in _NAMES:
        name = getattr(request, field, None)
        if isinstance(name, str) and name.startswith("fleets/"):
            return name.split("/")[1]
    return ""
