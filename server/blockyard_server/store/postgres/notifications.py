"""Which fleets have changed: servers notify each other by way of PostgreSQL. And whether it is there at all.

NOTIFY takes a lock of the whole database at its COMMIT: so it is never part of a write, but a transaction of its own,
for many fleets at once. What is lost on the way is found by looking; a listener that lost its connection is told to.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Final, Self

import psycopg

from blockyard_server.engine.store_protocol import ServerRow, StoreFailed
from blockyard_server.store.postgres.errors import said
from blockyard_server.store.postgres.target import SET_SEARCH_PATH, Target
from blockyard_server.store.postgres.watchdog import Watch

CHANNEL: Final = "blockyard_changed"
MAX_PAYLOAD_BYTES: Final = 7_999
"""Of one NOTIFY: PostgreSQL takes fewer than 8000."""
CHECK_INTERVAL_S: Final = 5.0
"""How often a listener that hears nothing asks whether its connection still is one."""
ANSWER_TIMEOUT_S: Final = 2.0
"""For a question on these connections; below the patience of who asks whether the database is there."""
RECONNECT_S: Final = 0.5
"""Between two attempts to listen again."""
_CLOCK_US: Final = b"(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_HEARTBEAT: Final = b"""
INSERT INTO servers (server, version, newest_format, holds_format, seen_us) VALUES (%s, %s, %s::int, %s::int, CLOCK)
ON CONFLICT (server) DO UPDATE SET newest_format = excluded.newest_format, holds_format = excluded.holds_format,
  seen_us = excluded.seen_us""".replace(b"CLOCK", _CLOCK_US)
_FORGET_SILENT: Final = b"DELETE FROM servers WHERE seen_us < CLOCK - 86400000000".replace(b"CLOCK", _CLOCK_US)
_SERVERS: Final = b"""
SELECT server, version, newest_format, holds_format, greatest(CLOCK - seen_us, 0) FROM servers ORDER BY server
""".replace(b"CLOCK", _CLOCK_US)
_DEREGISTER: Final = b"DELETE FROM servers WHERE server = %s"

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
            path_set = await made.ask(SET_SEARCH_PATH.format("%s").encode(), target.search_path)
            [(process, _)] = await path_set.fetchall()
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
        """Closes it: its descriptor is looked at no more."""
        self.watch.end()
        await super().close()


class Notifications:
    """The LISTEN/NOTIFY client of one server. Used in the event loop."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._own = secrets.token_hex(4)
        """Begins each payload of this server, so that it ignores its own."""
        self._sender: WatchedConnection | None = None
        self._turn = asyncio.Lock()

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """Does what `Store.listen` says."""
        while True:
            try:
                await self._listen(on_change)
            except psycopg.Error as error:
                _log.info("changes of other servers cannot be received: %s", said(error))
            except StoreFailed as failure:
                _log.info("changes of other servers cannot be received: %s", failure)
            await asyncio.sleep(RECONNECT_S)

    async def notify(self, fleets: Collection[str]) -> None:
        """Does what `Store.notify` says."""
        try:
            for payload in payloads(self._own, fleets):
                await self._ask(b"SELECT pg_notify(%s, %s)", CHANNEL, payload)
        except StoreFailed as failure:
            _log.info("other servers were not notified of %d fleets: %s", len(fleets), failure)

    async def probe(self) -> None:
        """Does what `Store.probe` says."""
        await self._ask(b"SELECT 1")

    async def heartbeat(self, own: ServerRow) -> list[ServerRow]:
        """Does what `Store.heartbeat` says. Rows of servers that are long gone are deleted."""
        row = (own.server, own.version, str(own.newest_format), str(int(own.holds_format)))
        await self._ask(_HEARTBEAT, *row)
        await self._ask(_FORGET_SILENT)
        return [
            ServerRow(str(server), str(version), int(str(newest)), bool(holds), int(str(silent_us)))
            for server, version, newest, holds, silent_us in await self._ask(_SERVERS)
        ]

    async def deregister(self, server: str) -> None:
        """Does what `Store.deregister` says."""
        with suppress(StoreFailed):
            await self._ask(_DEREGISTER, server)

    async def close(self) -> None:
        """Closes the connection that notifies. Who listens closes its own."""
        async with self._turn:
            await self._close_sender()

    async def _listen(self, on_change: Callable[[str], None]) -> None:
        listener = await WatchedConnection.reach(self._target)
        try:
            await listener.ask(f"LISTEN {CHANNEL}".encode())
            on_change("")
            while True:
                async for notice in listener.notifies(timeout=CHECK_INTERVAL_S):
                    sender, *fleets = notice.payload.split(" ")
                    if sender != self._own:
                        for fleet in fleets:
                            on_change(fleet)
                await listener.ask(b"SELECT 1")
        finally:
            await listener.close()

    async def _ask(self, statement: bytes, *parameters: str) -> list[tuple[object, ...]]:
        """What it finds. Raises StoreFailed. A connection that died since it was last used is replaced by a new one."""
        async with self._turn:
            fresh = self._sender is None
            try:
                return await self._ask_once(statement, *parameters)
            except psycopg.Error as error:
                if fresh:
                    raise StoreFailed(f"the database does not answer: {said(error)}") from error
                try:
                    return await self._ask_once(statement, *parameters)
                except psycopg.Error as again:
                    raise StoreFailed(f"the database does not answer: {said(again)}") from again

    async def _ask_once(self, statement: bytes, *parameters: str) -> list[tuple[object, ...]]:
        if self._sender is None:
            self._sender = await WatchedConnection.reach(self._target)
        try:
            found = await self._sender.ask(statement, *parameters)
            return await found.fetchall() if found.description else []
        except BaseException:
            await self._close_sender()
            raise

    async def _close_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()


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
