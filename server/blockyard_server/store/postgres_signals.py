"""What servers say to each other by way of PostgreSQL: which fleets have changed. And whether it is there at all.

NOTIFY takes a lock of the whole database at its COMMIT: so it is never part of a write, but a transaction of its own,
for many fleets at once. What is lost on the way is found by looking; a listener that lost its connection is told to.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Iterator
from typing import Final, Self

import psycopg

from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.store.postgres_errors import said
from blockyard_server.store.postgres_target import PIN, Target
from blockyard_server.store.watchdog import Watch

CHANNEL: Final = "blockyard_changed"
MAX_PAYLOAD_BYTES: Final = 7_999
"""Of one NOTIFY: PostgreSQL takes fewer than 8000."""
CHECK_INTERVAL_S: Final = 5.0
"""How often a listener that hears nothing asks whether its connection still is one."""
ANSWER_TIMEOUT_S: Final = 2.0
"""For a question on these connections; below the patience of who asks whether the database is there."""
RECONNECT_S: Final = 0.5
"""Between two attempts to listen again."""

_log = logging.getLogger(__name__)


class WatchedConnection(psycopg.AsyncConnection[tuple[object, ...]]):
    """An asynchronous connection with a watch over it."""

    watch: Watch

    @classmethod
    async def reach(cls, target: Target) -> Self:
        """Connects, with autocommit. Raises psycopg.Error, StoreFailed."""
        made = await cls.connect(target.conninfo, autocommit=True)
        made.watch = target.watchdog.watch(made.pgconn)
        # Planned each time, for what is asked; and the driver's names of statements are the same on every connection.
        made.prepare_threshold = None
        try:
            [(process, _)] = await (await made.ask(PIN.format("%s").encode(), target.search_path)).fetchall()
            if process != made.info.backend_pid:
                assert isinstance(process, int)
                await asyncio.to_thread(target.expect_kept, made.info.backend_pid, process)
        except BaseException:
            await made.close()
            raise
        return made

    async def ask(self, statement: bytes, *parameters: str) -> psycopg.AsyncCursor[tuple[object, ...]]:
        """Executes it, within ANSWER_TIMEOUT_S."""
        self.watch.begin(ANSWER_TIMEOUT_S)
        try:
            return await self.execute(statement, parameters or None)
        finally:
            self.watch.rest()

    async def close(self) -> None:
        """Closes it, whoever does: its descriptor is looked at no more."""
        self.watch.end()
        await super().close()


class Signals:
    """One server's voice and ear. Used in the event loop."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._own = secrets.token_hex(4)
        """Begins what this server says, so that it does not listen to itself."""
        self._speaking: WatchedConnection | None = None
        self._turn = asyncio.Lock()

    async def follow(self, heard: Callable[[str], None]) -> None:
        """See `Store.follow`."""
        while True:
            try:
                await self._listen(heard)
            except psycopg.Error as error:
                _log.info("other servers cannot be heard: %s", said(error))
            except StoreFailed as failure:
                _log.info("other servers cannot be heard: %s", failure)
            await asyncio.sleep(RECONNECT_S)

    async def tell(self, fleets: Collection[str]) -> None:
        """See `Store.tell`."""
        try:
            for payload in payloads(self._own, fleets):
                await self._ask(b"SELECT pg_notify(%s, %s)", CHANNEL, payload)
        except StoreFailed as failure:
            _log.info("other servers are not told of %d fleets: %s", len(fleets), failure)

    async def probe(self) -> None:
        """See `Store.probe`."""
        await self._ask(b"SELECT 1")

    async def close(self) -> None:
        """Hangs up."""
        async with self._turn:
            await self._hang_up()

    async def _listen(self, heard: Callable[[str], None]) -> None:
        ear = await WatchedConnection.reach(self._target)
        try:
            await ear.ask(f"LISTEN {CHANNEL}".encode())
            heard("")
            while True:
                async for notice in ear.notifies(timeout=CHECK_INTERVAL_S):
                    speaker, *fleets = notice.payload.split(" ")
                    if speaker != self._own:
                        for fleet in fleets:
                            heard(fleet)
                await ear.ask(b"SELECT 1")
        finally:
            await ear.close()

    async def _ask(self, statement: bytes, *parameters: str) -> None:
        """Raises StoreFailed. A connection that died since it was last used is replaced by a new one."""
        async with self._turn:
            fresh = self._speaking is None
            try:
                await self._ask_once(statement, *parameters)
            except psycopg.Error as error:
                if fresh:
                    raise StoreFailed(f"the database does not answer: {said(error)}") from error
                try:
                    await self._ask_once(statement, *parameters)
                except psycopg.Error as again:
                    raise StoreFailed(f"the database does not answer: {said(again)}") from again

    async def _ask_once(self, statement: bytes, *parameters: str) -> None:
        if self._speaking is None:
            self._speaking = await WatchedConnection.reach(self._target)
        try:
            await self._speaking.ask(statement, *parameters)
        except BaseException:
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            await speaking.close()


def payloads(own: str, fleets: Collection[str]) -> Iterator[str]:
    """Who says it and the fleets, in as few payloads as they fit into. Names of fleets are ASCII without spaces."""
    payload = own
    for fleet in fleets:
        if len(payload) + 1 + len(fleet) > MAX_PAYLOAD_BYTES:
            yield payload
            payload = own
        payload += f" {fleet}"
    if payload != own:
        yield payload
