"""A client that speaks HTTP/2 frame by frame, to do what no gRPC client does: not send, not read, or send too much."""

import asyncio
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK: Final = 1
END_STREAM: Final = 1
END_HEADERS: Final = 4
INITIAL_WINDOW_SIZE: Final = 4
CANCEL: Final = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(data: bytes) -> bytes:
    """A gRPC message with its length."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def headers(path: str) -> bytes:
    """The block of headers that begins a call: literals, none of them kept in the table."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127, "longer texts have another form"
    return bytes([len(data)]) + data


class RawConnection:
    """One connection. A context manager; it acknowledges pings and settings by itself and notes how streams end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1
        self._changed = asyncio.Condition()
        self.ended: dict[int, str] = {}
        """`answered` or `reset`, by stream."""
        self.begun: set[int] = set()
        """Streams of which the server has sent the headers."""
        self.closed = False
        """The server has closed the connection, or lost it."""
        self._reading = asyncio.create_task(self._read(), name="raw-connection")

    @classmethod
    async def open(cls, address: str, *, window: int = 65_535) -> Self:
        """Connects. `window` is how much of each answer the server may send: 0 is a client that takes none."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        setting = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big")
        writer.write(PREFACE + frame(SETTINGS, 0, 0, setting))
        return cls(reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        self._writer.close()

    def begin(self, path: str) -> int:
        """Begins a call, of which nothing but the headers is sent; returns its stream."""
        stream = self._next_stream
        self._next_stream += 2
        self._writer.write(frame(HEADERS, END_HEADERS, stream, headers(path)))
        return stream

    def send(self, stream: int, data: bytes, *, last: bool = True) -> None:
        """Sends a part of a call's request, as it is, in frames of the size that every server takes."""
        chunks = [data[at : at + 16_384] for at in range(0, len(data), 16_384)] or [b""]
        for chunk in chunks[:-1]:
            self._writer.write(frame(DATA, 0, stream, chunk))
        self._writer.write(frame(DATA, END_STREAM if last else 0, stream, chunks[-1]))

    def call(self, path: str, request: bytes = b"") -> int:
        """Sends a whole call; returns its stream."""
        stream = self.begin(path)
        self.send(stream, message(request))
        return stream

    def reset(self, stream: int) -> None:
        """Cancels a call."""
        self._writer.write(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))

    async def drain(self) -> None:
        """Waits until what was written is on its way."""
        await self._writer.drain()

    def abort(self) -> None:
        """Ends the connection as a process that is killed does."""
        self._writer.transport.abort()

    async def until_begun(self, streams: int) -> None:
        """Waits until so many calls are being answered, or the connection has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or len(self.begun) >= streams)

    async def until_ended(self, streams: int) -> None:
        """Waits until so many calls have ended, or the connection."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or len(self.ended) >= streams)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                await self._take(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)
        except (asyncio.IncompleteReadError, OSError):
            self.closed = True
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, payload))
        elif kind in (DATA, HEADERS, RST_STREAM):
            self.begun.add(stream)
            if kind == RST_STREAM or flags & END_STREAM:
                self.ended.setdefault(stream, "reset" if kind == RST_STREAM else "answered")
            async with self._changed:
                self._changed.notify_all()
