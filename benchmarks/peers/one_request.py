"""One HTTP request over a connection of its own: as a reverse proxy talks to uwsgi, and without another dependency."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

BOUND_S: Final = 60.0
"""No request takes longer than this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


async def request(port: int, method: str, path: str, headers: str = "", content: Any = None) -> Answer:
    """Asks 127.0.0.1; `headers` are whole lines, each with its CR LF. Raises OSError, TimeoutError, ValueError."""
    body = b"" if content is None else json.dumps(content).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    async with asyncio.timeout(BOUND_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + body)
            answer = await reader.read(-1)
        finally:
            writer.close()
    return decode_answer(answer)


def decode_answer(answer: bytes) -> Answer:
    """An answer that was read to its end. Raises ValueError when it is not whole."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    lengths = [line.partition(":")[2] for line in lines[1:] if line.lower().startswith("content-length:")]
    if not separator or (lengths and int(lengths[0]) != len(body)):
        raise ValueError(f"not a whole answer: {answer[:100]!r}")
    return Answer(int(lines[0].split(" ", 2)[1]), body)
