"""How often a client may ping, frame by frame: gRPC takes an option of a wrong name without a word."""

import asyncio
from typing import Final

import pytest

from blockyard_server.rpc.server import EdgeSettings, build_server
from tests.rpc.fake_service import FakeService

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING: Final = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"blocks!!"
PINGS: Final = 10


async def answer_to_ping(reader: asyncio.StreamReader) -> str:
    """Whether a ping was acknowledged, or ended the connection, with the server's reason."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        match head[3], head[4]:
            case (6, 1):
                return "acknowledged"
            case (7, _):
                return payload[8:].decode()
            case _:
                pass


@pytest.mark.parametrize(
    ("interval_s", "end"), [(0.001, "acknowledged"), (60.0, "too_many_pings")], ids=["as allowed", "more often"]
)
async def test_a_client_may_ping_an_idle_connection_as_often_as_the_settings_say(interval_s: float, end: str) -> None:
    edge = build_server(FakeService(), EdgeSettings(min_client_ping_interval_s=interval_s))
    port = edge.bind("127.0.0.1:0")
    await edge.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + SETTINGS)
    answer = "acknowledged"
    for _ in range(PINGS):
        writer.write(PING)
        answer = await answer_to_ping(reader)
        if answer != "acknowledged":
            break
        await asyncio.sleep(0.02)
    writer.close()
    await edge.stop(grace_s=0)
    assert answer == end
