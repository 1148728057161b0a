"""The proxy does to bytes what it says, and counts what it did."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import uvloop

from tests.harness.patience import eventually
from tests.harness.proxy import Fault, Mischief, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Answers each line with itself, and remembers every byte that came."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = 0
        self._begun = 0
        self.address = ""
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

        async def all_ended() -> bool:
            return self.ended == self._begun

        await eventually(all_ended, "every connection had ended")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begun += 1
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.ended += 1
            writer.close()


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[tuple[Echo, Proxy]]:
    async with Echo() as echo, Proxy(echo.address) as proxy:
        yield echo, proxy


async def connect(proxy: Proxy) -> Streams:
    host, _, port = proxy.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def say(streams: Streams, text: bytes) -> bytes:
    """Sends a text and reads as much."""
    reader, writer = streams
    writer.write(text)
    return await reader.readexactly(len(text))


async def is_reset(streams: Streams) -> bool:
    try:
        return await streams[0].read() == b""
    except ConnectionError:
        return True


async def test_without_a_fault_everything_arrives() -> None:
    async with echo_behind_proxy() as (_, proxy):
        text = bytes(range(256)) * 20_000
        streams = await connect(proxy)
        reading = asyncio.create_task(streams[0].readexactly(len(text)))
        streams[1].write(text)
        assert await reading == text
        assert not proxy.counts
        streams[1].close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_is_sent_before_the_target_is_connected_arrives(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def connect_and_speak() -> None:
        async with echo_behind_proxy() as (_, proxy):
            several = [await connect(proxy) for _ in range(50)]
            for streams in several:
                streams[1].write(b"hello")
            for streams in several:
                async with asyncio.timeout(10):  # pytest's own timeout does not end uvloop
                    assert await streams[0].readexactly(5) == b"hello"
                streams[1].close()

    run(connect_and_speak())


async def test_an_end_is_passed_on_and_the_link_is_forgotten() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        streams = await connect(proxy)
        await say(streams, b"hello")
        streams[1].close()

        async def gone() -> bool:
            return proxy.connections == 0 and echo.ended == 1

        await eventually(gone, "both ends had closed")


async def test_dropped_requests_never_arrive_and_the_connection_is_reset_in_the_end() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        streams = await connect(proxy)
        await say(streams, b"before")
        proxy.inject(Fault.DROP_REQUESTS)
        streams[1].write(b"swallowed")

        async def bitten() -> bool:
            return proxy.counts[Fault.DROP_REQUESTS] == 1

        await eventually(bitten, "the request was swallowed")
        proxy.heal()
        assert await is_reset(streams)
        assert echo.heard == b"before"
        again = await connect(proxy)
        assert await say(again, b"after") == b"after"
        again[1].close()


async def test_dropped_answers_are_carried_out_and_not_heard() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        streams = await connect(proxy)
        await say(streams, b"before")
        proxy.inject(Fault.DROP_ANSWERS)
        streams[1].write(b" carried out")

        async def bitten() -> bool:
            return proxy.counts[Fault.DROP_ANSWERS] == 1

        await eventually(bitten, "the answer was swallowed")
        proxy.heal()
        assert await is_reset(streams)
        assert echo.heard == b"before carried out"


async def test_delayed_bytes_arrive_in_order_even_those_after_the_delay() -> None:
    async with echo_behind_proxy() as (_, proxy):
        streams = await connect(proxy)
        await say(streams, b"before")
        proxy.inject(Fault.DELAY, delay_s=0.2)
        streams[1].write(b"one")
        await asyncio.sleep(0.05)
        proxy.heal()
        streams[1].write(b"two")
        assert await streams[0].readexactly(6) == b"onetwo"
        assert proxy.counts == {Fault.DELAY: 1}
        streams[1].close()


async def test_what_was_delayed_arrives_although_the_sender_has_gone() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        streams = await connect(proxy)
        await say(streams, b"before")
        proxy.inject(Fault.DELAY, delay_s=0.1)
        streams[1].write(b" late")
        streams[1].close()

        async def heard() -> bool:
            return echo.heard == b"before late" and proxy.connections == 0

        await eventually(heard, "the late bytes were heard")


async def test_a_cut_passes_a_part_on_and_resets() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        streams = await connect(proxy)
        await say(streams, b"before")
        proxy.inject(Fault.CUT)
        streams[1].write(b"x" * 1000)
        assert await is_reset(streams)
        assert len(echo.heard) < len("before") + 1000
        assert proxy.counts == {Fault.CUT: 1}
        proxy.heal()
        again = await connect(proxy)
        assert await say(again, b"after") == b"after"
        again[1].close()


async def test_half_open_stops_everything_and_loses_nothing() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        streams = await connect(proxy)
        await say(streams, b"before")
        proxy.inject(Fault.HALF_OPEN)
        streams[1].write(b" waiting")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(streams[0].read(1), timeout=0.2)
        assert echo.heard == b"before"
        assert proxy.counts == {Fault.HALF_OPEN: 1}
        proxy.heal()
        assert await streams[0].readexactly(8) == b" waiting"
        streams[1].close()


async def test_a_new_connection_during_half_open_is_accepted_and_hears_nothing_until_it_is_healed() -> None:
    async with echo_behind_proxy() as (_, proxy):
        proxy.inject(Fault.HALF_OPEN)
        streams = await connect(proxy)
        streams[1].write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(streams[0].read(1), timeout=0.2)
        proxy.heal()
        assert await streams[0].readexactly(5) == b"hello"
        streams[1].close()


async def test_new_connections_are_refused_and_old_ones_go_on() -> None:
    async with echo_behind_proxy() as (_, proxy):
        old = await connect(proxy)
        await say(old, b"before")
        proxy.inject(Fault.REFUSE)
        assert await is_reset(await connect(proxy))
        assert await say(old, b"still") == b"still"
        assert proxy.counts == {Fault.REFUSE: 1}
        proxy.heal()
        new = await connect(proxy)
        assert await say(new, b"after") == b"after"
        old[1].close()
        new[1].close()


async def test_a_target_that_is_not_there_is_a_reset() -> None:
    async with echo_behind_proxy() as (echo, proxy):
        good, proxy.target = proxy.target, "127.0.0.1:1"
        assert await is_reset(await connect(proxy))
        proxy.target = good
        streams = await connect(proxy)
        assert await say(streams, b"back") == b"back" == echo.heard
        streams[1].close()


async def test_mischief_does_every_fault_and_leaves_a_healed_proxy() -> None:
    async with echo_behind_proxy() as (_, proxy):
        mischief = Mischief([proxy], seed=1, calm_s=(0.0, 0.01), fault_s=(0.01, 0.02), delay_s=(0.001, 0.002))
        running = asyncio.create_task(mischief.run())

        async def talk() -> None:
            while True:
                streams = await connect(proxy)
                try:
                    while True:
                        async with asyncio.timeout(0.1):  # wait_for may swallow a cancellation
                            await say(streams, b"hello")
                except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                    continue
                finally:
                    streams[1].close()

        talking = [asyncio.create_task(talk()) for _ in range(4)]

        async def all_happened() -> bool:
            return set(mischief.happened) == set(Fault)

        try:
            await eventually(all_happened, "every fault had happened")
        finally:
            for task in (running, *talking):
                task.cancel()
            await asyncio.gather(running, *talking, return_exceptions=True)
        streams = await connect(proxy)
        assert await say(streams, b"healed") == b"healed"
        streams[1].close()
