"""One test for each fault that was found; the number never changes."""

import asyncio

from blockyard_server.domain.answers import FleetRecord
from blockyard_server.domain.requests import CreateFleet, FleetFields
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writer import Writer, WriterLimits
from tests.unit.memory_store import MemoryStore


def create(fleet: str) -> CreateFleet:
    return CreateFleet(fleet, FleetFields())


def writer_over(store: MemoryStore, limits: WriterLimits | None = None) -> Writer:
    return Writer(Transactor(store, ManualClock()), limits or WriterLimits())


def coarse_loop() -> asyncio.AbstractEventLoop:
    """A loop with a coarse clock: its timers fire a little before their time, as uvloop's may."""
    loop = asyncio.new_event_loop()
    vars(loop)["_clock_resolution"] = 0.003
    return loop


def test_001_a_request_after_company_is_carried_out_though_the_linger_ended_early() -> None:
    async def story() -> None:
        writer = writer_over(MemoryStore())
        writer.start()
        await asyncio.gather(*(writer.submit(create(f"f{n}")) for n in range(5)))
        for _ in range(1000):  # a busy loop looks at its timers often: before their time, too
            await asyncio.sleep(0.00001)

        record = await asyncio.wait_for(writer.submit(create("alone")), timeout=5)

        assert isinstance(record, FleetRecord)
        await writer.stop()

    with asyncio.Runner(loop_factory=coarse_loop) as runner:
        runner.run(story())
