"""The writers of the process together: which fleet belongs to which, and what they have in common."""

import asyncio
import time
import zlib
from collections import Counter

from blockyard_server.engine.asker import Urgency
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.waiting_room import WaitingRoom
from blockyard_server.engine.writer import Writer, WriterLimits


class Writers:
    """The writer shards: a fleet always has the same one; fleets of different shards never wait for each other."""

    def __init__(self, transactor: Transactor, limits: WriterLimits, shards: int, counts: Counts | None = None) -> None:
        self._counts = counts = Counts() if counts is None else counts
        self._room = WaitingRoom(limits.max_waiting)
        self._shards = [Writer(transactor, limits, counts, self._room) for _ in range(shards)]

    @property
    def waiting(self) -> int:
        """How many requests wait now, in all shards."""
        return self._room.waiting

    def waiting_by_class(self) -> Counter[Urgency]:
        """The same by class. From any thread."""
        return self._counts.waiting.copy()

    def busy_s(self) -> float:
        """For how long a shard has been at its present work, the longest of all. From any thread."""
        now_s = time.monotonic()
        return max((now_s - since_s for s in self._shards if (since_s := s.busy_since_s) is not None), default=0.0)

    def of(self, fleet: str) -> Writer:
        """The fleet's writer."""
        return self._shards[zlib.crc32(fleet.encode()) % len(self._shards)]

    def start(self) -> None:
        """Begins to carry out what is enqueued."""
        for shard in self._shards:
            shard.start()

    def refuse(self) -> None:
        """From now on new requests are refused. What was accepted, and exclusive work, are carried out."""
        for shard in self._shards:
            shard.refuse()

    def give_up(self) -> None:
        """Refuses what waits and was not begun, too."""
        for shard in self._shards:
            shard.give_up()

    async def stop(self) -> None:
        """Carries out what was accepted, refuses the rest, and ends."""
        await asyncio.gather(*(shard.stop() for shard in self._shards))
