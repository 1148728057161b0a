"""Several statements in one round trip, each prepared once, on libpq itself.

Cursors would do the same at more than three times the cost in Python (docs/adr/0006). Parameters and values travel as
text. No two connections ever give a statement the same name: behind a pooler that mixes their sessions up, a statement
is missed, and never taken for another one.
"""

import secrets
import select
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from blockyard_server.store.codec import Row

_GOOD: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Answer:
    """What came of one statement."""

    __slots__ = ("_result",)

    def __init__(self, result: PGresult) -> None:
        self._result = result

    @property
    def status(self) -> str:
        """The command that was carried out, in the server's words."""
        return (self._result.command_status or b"").decode()

    @property
    def count(self) -> int:
        """How many rows it changed or found."""
        return self._result.command_tuples or 0

    def rows(self) -> list[Row]:
        """What it found."""
        result = self._result
        numbers, value = range(result.ntuples), result.get_value
        columns = []
        for column in range(result.nfields):
            decode = _DECODERS.get(result.ftype(column), bytes.decode)
            found = (value(number, column) for number in numbers)
            columns.append([None if text is None else decode(text) for text in found])
        return list(zip(*columns, strict=True))


class Pipe:
    """One connection, always in pipeline mode. Raises psycopg.Error."""

    def __init__(self, connection: PGconn) -> None:
        self._connection = connection
        self._prepared: dict[str, bytes] = {}
        self._names = secrets.token_hex(8)
        self._count = 0
        self.clean = True
        """Every answer was read. One that was left half way, by whatever interrupted it, is of no more use."""
        self._poll = select.poll()
        connection.nonblocking = 1
        connection.enter_pipeline_mode()

    def send(self, requests: Sequence[tuple[str, Row]]) -> list[Answer]:
        """Has all of them carried out, in order. After the first that fails none is, and its error is raised."""
        connection = self._connection
        self.clean = False
        prepared: list[str | None] = []
        """What each result belongs to: a statement that is prepared by it, or None for one that is carried out."""
        for statement, parameters in requests:
            name = self._prepared.get(statement)
            if name is None:
                name = f"b{self._names}_{self._count}".encode()
                self._count += 1
                self._prepared[statement] = name
                connection.send_prepare(name, statement.encode())
                prepared.append(statement)
            connection.send_query_prepared(name, [_encode(value) for value in parameters])
            prepared.append(None)
        connection.pipeline_sync()
        results = self._results(len(prepared))
        self.clean = True
        answers: list[Answer] = []
        error: psycopg.Error | None = None
        for statement_prepared, result in zip(prepared, results, strict=True):
            if result.status in _GOOD:
                if statement_prepared is None:
                    answers.append(Answer(result))
                continue
            if statement_prepared is not None:
                del self._prepared[statement_prepared]
            if error is None:
                error = psycopg.errors.error_from_result(result)
        if error is not None:
            raise error
        return answers

    def _results(self, expected: int) -> list[PGresult]:
        """One for each message sent, once the server has answered all of them."""
        connection = self._connection
        self._poll.register(connection.socket, select.POLLIN)
        results: list[PGresult] = []
        while True:
            unsent = connection.flush()
            self._poll.modify(connection.socket, select.POLLIN | select.POLLOUT if unsent else select.POLLIN)
            self._poll.poll()
            connection.consume_input()
            while not connection.is_busy():
                result = connection.get_result()
                if result is None:
                    continue
                if result.status == ExecStatus.PIPELINE_SYNC:
                    assert len(results) == expected, "each message has one result"
                    return results
                results.append(result)


def _encode(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    return str(value).encode()


def _decode_bytes(text: bytes) -> bytes:
    return bytes.fromhex(text[2:].decode())


_DECODERS: Final[Mapping[int, Callable[[bytes], Any]]] = MappingProxyType(
    {17: _decode_bytes, 20: int, 21: int, 23: int}  # bytea, int8, int2, int4; all else is text
)
