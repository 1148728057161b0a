"""A small HTTP server for operators' tools. Whatever its clients do, they cost no more than is allowed here.

It has one thread with an event loop of its own, so that it answers while the server's event loop is busy or hangs.
It reads the head of one request, answers it and closes the connection.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MAX_CONNECTIONS: Final = 32
"""Connections that are open at once; one more is closed as soon as it is accepted."""
PATIENCE_S: Final = 5.0
"""After so long a connection is closed, however slowly its client sends or reads."""
MAX_HEAD_BYTES: Final = 8192
"""Of a request line and headers together."""
OWN_DESCRIPTORS: Final = MAX_CONNECTIONS + 8
"""File descriptors: also the socket that listens, the event loop's, and connections that are being refused."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_PLAIN: Final = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = _PLAIN
    headers: tuple[str, ...] = ()
    """More headers, as they are sent."""

    def encode(self) -> bytes:
        """As bytes, head and body."""
        lines = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *self.headers,
            "Connection: close",
        )
        return "\r\n".join(lines).encode("latin-1") + _END_OF_HEAD + self.body


Page = Callable[[Mapping[str, str]], Answer]
"""Makes the answer to a GET; it is given the headers, with names in small letters. It must not wait."""


class HttpServer:
    """Serves its pages while it is open."""

    def __init__(self, listen: str, pages: Mapping[str, Page]) -> None:
        """`pages` is by path. Raises OSError if the address cannot be listened on.

        `listen` is HOST:PORT; port 0 takes a free one.
        """
        self._pages = dict(pages)
        self._open = 0
        host, _, port = listen.rpartition(":")
        bare = host.strip("[]")
        family, *_ = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._socket = socket.create_server((bare, int(port)), family=family, backlog=MAX_CONNECTIONS)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="blockyard-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answers no more."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._socket, limit=MAX_HEAD_BYTES)
        async with server:
            await self._closing.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._converse(reader, writer)
        except (TimeoutError, OSError, EOFError):
            pass  # a client that goes away or is too slow is no fault
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(_END_OF_HEAD)
        except asyncio.LimitOverrunError:
            answer = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            answer = self._answer(head.decode("latin-1"))
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` waits until all of it is sent
        writer.write(answer.encode())
        await writer.drain()
        # What is still unread would turn the end of the connection into a reset, and the answer would be lost.
        writer.write_eof()
        while await reader.read(MAX_HEAD_BYTES):
            pass

    def _answer(self, head: str) -> Answer:
        request, *lines = head.split("\r\n")
        match request.split(" "):
            case ["GET", target, version] if version.startswith("HTTP/1."):
                page = self._pages.get(target.partition("?")[0])
            case [_, _, version] if version.startswith("HTTP/1."):
                return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Allow: GET")
            case _:
                return _refusal(HTTPStatus.BAD_REQUEST)
        if page is None:
            return _refusal(HTTPStatus.NOT_FOUND)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        try:
            return page(headers)
        except Exception:  # noqa: BLE001 - whatever it is, its text must not reach a client
            _log.exception("the page %s cannot be made", target)
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)


def _refusal(status: HTTPStatus, *headers: str) -> Answer:
    return Answer(status, f"{status.phrase}\n".encode(), headers=headers)
