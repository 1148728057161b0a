"""What a load balancer and a supervisor ask over HTTP: is the server ready, is it alive."""

from pathlib import Path

from blockyard_server.app import RunningServer
from blockyard_server.engine.pulse import LOOP_PATIENCE_S, WRITER_PATIENCE_S, Pulse
from tests.harness.in_process import client_of, serving, settings_for
from tests.harness.patience import eventually
from tests.rpc.test_metrics import fill, get


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def answer_of(server: RunningServer, page: str, status: int) -> bytes:
    """The page's body, once it has this status."""

    async def has_status() -> bool:
        return (await get(server, page))[0] == status

    await eventually(has_status, f"{page} answers {status}")
    return (await get(server, page))[1]


async def test_a_server_that_serves_is_ready_and_alive(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as server:
        assert await get(server, "/readyz") == (200, b"ok\n")
        assert await get(server, "/livez") == (200, b"ok\n")
        assert (await get(server, "/other"))[0] == 404


async def test_a_server_without_its_database_is_alive_and_not_ready(tmp_path: Path) -> None:
    data = settings_for(tmp_path).data
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as server, client_of(server) as client:
        await fill(client)
        data.rename(data.with_suffix(".away"))
        assert b"database" in await answer_of(server, "/readyz", 503)
        assert await get(server, "/livez") == (200, b"ok\n")


async def test_the_old_name_of_the_address_goes_on_to_work(tmp_path: Path) -> None:
    async with serving(tmp_path, metrics_listen="127.0.0.1:0") as server:
        assert (await get(server, "/metrics"))[0] == 200


async def test_a_server_is_alive_as_long_as_its_event_loop_turns() -> None:
    clock = Clock()
    pulse = Pulse(lambda: 0.0, clock)
    pulse.start()
    clock.now_s += LOOP_PATIENCE_S
    assert pulse.why_not_alive() is None
    clock.now_s += 1
    assert pulse.why_not_alive() == "the event loop has not turned for 11 s"

    async def is_alive() -> bool:
        return pulse.why_not_alive() is None

    await eventually(is_alive, "the event loop turns")
    assert pulse.lag.up_to[-1] == 1
    assert pulse.lag.total_s == LOOP_PATIENCE_S + 1 - 0.25
    await pulse.stop()


def test_a_server_is_not_alive_while_a_writer_hangs() -> None:
    busy_s = WRITER_PATIENCE_S
    pulse = Pulse(lambda: busy_s)
    assert pulse.why_not_alive() is None
    busy_s += 1
    assert pulse.why_not_alive() == "a writer has been at the same work for 121 s"
