"""The HTTP server for operators' tools: few pages, one thread, and a bound for whatever a client does."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import pytest

from blockyard_server import http_server
from blockyard_server.http_server import MAX_CONNECTIONS, MAX_HEAD_BYTES, Answer, HttpServer
from tests.harness.patience import eventually

GET = b"GET /page HTTP/1.1\r\nHost: x\r\nX-Name: value\r\n\r\n"
LARGE = b"x" * 64 * 1024 * 1024


def page(headers: Mapping[str, str]) -> Answer:
    return Answer(HTTPStatus.OK, repr(dict(headers)).encode())


def broken(_headers: Mapping[str, str]) -> Answer:
    raise ValueError("a secret")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    pages = {"/page": page, "/broken": broken, "/large": lambda _: Answer(HTTPStatus.OK, LARGE)}
    server = HttpServer("127.0.0.1:0", pages)
    yield server
    server.close()


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def answer_to(server: HttpServer, sent: bytes) -> tuple[str, str]:
    """The first line of the answer and its body, to the end of the connection."""
    reader, writer = await connect(server)
    writer.write(sent)
    head, _, body = (await reader.read()).decode("latin-1").partition("\r\n\r\n")
    writer.close()
    return head.partition("\r\n")[0], body


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (GET, "HTTP/1.1 200 OK", "{'host': 'x', 'x-name': 'value'}"),
        (b"GET /page?a=b HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK", "{}"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found", "Not Found\n"),
        (b"GET /page/ HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found", "Not Found\n"),
        (b"POST /page HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed", "Method Not Allowed\n"),
        (b"GET /page\r\n\r\n", "HTTP/1.1 400 Bad Request", "Bad Request\n"),
        (b"\xff\xfe\x00 nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request", "Bad Request\n"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP/1.1 400 Bad Request", "Bad Request\n"),
    ],
)
async def test_a_get_of_a_page_is_answered_and_nothing_else(
    server: HttpServer, sent: bytes, status: str, body: str
) -> None:
    assert await answer_to(server, sent) == (status, body)


async def test_a_head_that_is_too_long_is_refused(server: HttpServer) -> None:
    status, _ = await answer_to(server, b"GET /page HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n")

    assert status == "HTTP/1.1 431 Request Header Fields Too Large"


async def test_a_page_that_fails_is_logged_and_its_text_stays_here(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, body = await answer_to(server, b"GET /broken HTTP/1.1\r\n\r\n")

    assert (status, body) == ("HTTP/1.1 500 Internal Server Error", "Internal Server Error\n")
    assert "a secret" in caplog.text


@pytest.mark.parametrize("sent", [b"", b"GET /page HT", GET[:-2]], ids=["nothing", "a part of a line", "no end"])
async def test_a_client_that_does_not_finish_is_closed(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_server, "PATIENCE_S", 0.05)
    reader, writer = await connect(server)
    writer.write(sent)

    assert await is_closed(reader)
    writer.close()


async def test_a_client_that_says_something_now_and_then_is_closed_all_the_same(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "PATIENCE_S", 0.2)
    reader, writer = await connect(server)
    closed = asyncio.ensure_future(is_closed(reader))
    while not closed.done():
        writer.write(b"x")
        await asyncio.wait([closed], timeout=0.01)

    assert await closed
    writer.close()


async def test_a_client_that_does_not_read_is_closed(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "PATIENCE_S", 0.05)
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")

        async def is_reset() -> bool:
            try:
                client.send(b"x")
            except OSError:
                return True
            return False

        await eventually(is_reset, "the connection is closed")


async def test_connections_have_a_bound_and_no_threads(server: HttpServer) -> None:
    threads = threading.active_count()
    silent = [await connect(server) for _ in range(MAX_CONNECTIONS)]
    reader, writer = await connect(server)
    writer.write(GET)

    assert await is_closed(reader)
    assert threading.active_count() == threads
    for _, each in [*silent, (reader, writer)]:
        each.close()


async def test_an_address_that_is_taken_is_refused(server: HttpServer) -> None:
    with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        HttpServer(server.address, {})
