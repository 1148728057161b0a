"""A TCP proxy that misbehaves on demand. It knows no protocol: it stands before a server or before a database.

    async with Proxy(server.address) as proxy:
        proxy.inject(Fault.DROP_ANSWERS)
        ...
        proxy.heal()

`Mischief` switches faults at random. What really happened, not what was ordered, is counted in `Proxy.counts`.
"""

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Final, Self, cast

MAX_HELD_BACK: Final = 4096
"""Delayed pieces of one direction; a side that sends more is not read from until some have gone."""
CUT_LINGER_S: Final = 0.02
"""Between the last bytes of a cut connection and its reset, so that they arrive."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


class Fault(StrEnum):
    """What can go wrong between two parties."""

    DROP_REQUESTS = "drop requests"
    """What the client sends is swallowed. A connection that lost bytes is reset when the fault ends."""
    DROP_ANSWERS = "drop answers"
    """What the server sends is swallowed; the same."""
    DELAY = "delay"
    """What either sends arrives later."""
    CUT = "cut"
    """A part of what either sends next arrives, then the connection is reset."""
    HALF_OPEN = "half-open"
    """Nothing arrives and nothing is closed, until the fault ends: then all of it arrives."""
    REFUSE = "refuse"
    """New connections are reset at once; the others go on."""


class _Side(asyncio.Protocol):
    """One end of a link: reads from its own transport, writes to the other's."""

    def __init__(self, link: "_Link", dropped_by: Fault) -> None:
        self._link = link
        self._dropped_by = dropped_by
        self._held_back: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._early = b""
        """What came before there was anybody to write it to."""
        self.transport: asyncio.Transport | None = None
        self.other: _Side
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.set_reading()
        self._link.made(self)

    def set_reading(self) -> None:
        """Reads while there is somebody to write to, who keeps up, and the link is not half-open."""
        if self.transport is None or self.transport.is_closing():
            return
        wanted = self.other.transport is not None and not self.other._full and not self._link.stalled
        wanted = wanted and len(self._held_back) < MAX_HELD_BACK
        # Without asking is_reading: uvloop begins to read only after connection_made, and says no until then.
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._full = True
        self.other.set_reading()

    def resume_writing(self) -> None:
        self._full = False
        self.other.set_reading()

    def data_received(self, data: bytes) -> None:
        link = self._link
        if link.fault is self._dropped_by:
            link.has_lost_bytes = True
            link.bitten()
        elif link.fault is Fault.CUT and not link.cut:
            link.bitten()
            link.cut = True
            self._write(data[: link.dice.randrange(len(data))])
            asyncio.get_running_loop().call_later(CUT_LINGER_S, link.abort)
        elif link.cut:
            pass
        elif link.fault is Fault.DELAY or self._held_back:
            if link.fault is Fault.DELAY:
                link.bitten()
            self._hold_back(data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.other.transport is None:
            self._early += data
        elif data and not self.other.transport.is_closing():
            self.other.transport.write(data)

    def write_early(self) -> None:
        """There is somebody to write to now."""
        early, self._early = self._early, b""
        self._write(early)

    def _hold_back(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._held_back.append((loop.time() + self._link.delay_s, data))
        if self._timer is None:
            self._timer = loop.call_at(self._held_back[0][0], self._let_go)
        self.set_reading()

    def _let_go(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer = None
        while self._held_back and self._held_back[0][0] <= now:
            self._write(self._held_back.popleft()[1])
        if self._held_back:
            self._timer = asyncio.get_running_loop().call_at(self._held_back[0][0], self._let_go)
        elif self.ended:
            self._link.close_after(self)
        self.set_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if exc is not None:
            self._link.abort()
        elif not self._held_back:
            self._link.close_after(self)

    def abort(self) -> None:
        """Resets the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held_back.clear()
        if self.transport is not None and not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()


class _Link:
    """One connection of a client, and ours to the target."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy
        self.dice = proxy.dice
        self.client = _Side(self, Fault.DROP_REQUESTS)
        self.server = _Side(self, Fault.DROP_ANSWERS)
        self.client.other, self.server.other = self.server, self.client
        self.fault: Fault | None = None
        self.delay_s = 0.0
        self.has_lost_bytes = False
        self.cut = False
        self._bitten = False
        self._connecting: asyncio.Task[None] | None = None

    @property
    def stalled(self) -> bool:
        """Nothing is read from either side."""
        return self.fault is Fault.HALF_OPEN

    def made(self, side: _Side) -> None:
        """A side is connected."""
        if side is self.server:
            self.client.write_early()
            self.client.set_reading()
            self.server.set_reading()
        elif self._proxy.welcome(self):
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        host, _, port = self._proxy.target.rpartition(":")
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, host, int(port))
        except OSError:
            self.abort()

    def suffer(self, fault: Fault | None, delay_s: float) -> None:
        """From now on; None heals. What has lost bytes cannot be healed, and is reset."""
        self.fault, self.delay_s, self._bitten = fault, delay_s, False
        if self.has_lost_bytes:
            self.abort()
            return
        if fault is Fault.HALF_OPEN:
            self.bitten()
        self.client.set_reading()
        self.server.set_reading()

    def bitten(self) -> None:
        """The fault has had an effect: counted once for each time that it is injected."""
        if not self._bitten and self.fault is not None:
            self._bitten = True
            self._proxy.counts[self.fault] += 1

    def abort(self) -> None:
        """Resets both connections."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.abort()
        self.server.abort()
        self._proxy.forget(self)

    def close_after(self, side: _Side) -> None:
        """One side has ended and all of it was passed on: the other ends as well."""
        other = side.other.transport
        if other is None:
            self.abort()
        elif not other.is_closing():
            other.close()
        if side.ended and side.other.ended:
            self._proxy.forget(self)


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `target` (host:port). An async context manager.

    `target` may be changed: it holds for new connections.
    """

    def __init__(self, target: str, *, seed: object = 0) -> None:
        self.target = target
        self.dice = Random(str(seed))
        self.counts: Counter[Fault] = Counter()
        """How often each fault had an effect: connections that it hit, each time that it was injected."""
        self.accepted = 0
        """Connections so far."""
        self.address = ""
        self._links: set[_Link] = set()
        self._fault: Fault | None = None
        self._share = 1.0
        self._delay_s = 0.0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self).client, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # the transports' last callbacks

    def inject(self, fault: Fault, *, share: float = 1.0, delay_s: float = 0.05) -> None:
        """A fault for a share (0..1) of the connections, those to come included, until another or `heal`.

        `delay_s` is for DELAY.
        """
        self._set(fault, share, delay_s)

    def heal(self) -> None:
        """Everything is passed on again; connections that have lost bytes are reset."""
        self._set(None, 1.0, 0.0)

    def sever(self) -> None:
        """Resets all connections."""
        for link in list(self._links):
            link.abort()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    def _set(self, fault: Fault | None, share: float, delay_s: float) -> None:
        self._fault, self._share, self._delay_s = fault, share, delay_s
        for link in list(self._links):
            self._afflict(link)

    def _afflict(self, link: _Link) -> None:
        hit = self._fault is not None and self._fault is not Fault.REFUSE and self.dice.random() < self._share
        link.suffer(self._fault if hit else None, self._delay_s)

    def welcome(self, link: _Link) -> bool:
        """A client has connected. Answers whether it may stay."""
        self.accepted += 1
        if self._fault is Fault.REFUSE and self.dice.random() < self._share:
            self.counts[Fault.REFUSE] += 1
            link.client.abort()
            return False
        self._links.add(link)
        self._afflict(link)
        return True

    def forget(self, link: _Link) -> None:
        """A link has ended."""
        self._links.discard(link)


class Mischief:
    """Injects faults at random, one after the other, with calm times between them. The seed repeats the choices."""

    def __init__(
        self,
        proxies: Sequence[Proxy],
        seed: object,
        *,
        faults: Sequence[Fault] = tuple(Fault),
        calm_s: tuple[float, float] = (0.2, 1.0),
        fault_s: tuple[float, float] = (0.1, 0.8),
        delay_s: tuple[float, float] = (0.001, 0.1),
    ) -> None:
        self._proxies = proxies
        self._dice = Random(str(seed))
        self._faults = faults
        self._calm_s, self._fault_s, self._delay_s = calm_s, fault_s, delay_s
        self.injected: Counter[Fault] = Counter()
        """How often each was ordered; whether it had an effect is counted by the proxies."""

    async def run(self) -> None:
        """Goes on until it is cancelled; then everything is healed."""
        try:
            while True:
                await asyncio.sleep(self._dice.uniform(*self._calm_s))
                proxy, fault = self._dice.choice(self._proxies), self._dice.choice(self._faults)
                share, delay_s = self._dice.choice((0.3, 1.0)), self._dice.uniform(*self._delay_s)
                proxy.inject(fault, share=share, delay_s=delay_s)
                self.injected[fault] += 1
                await asyncio.sleep(self._dice.uniform(*self._fault_s))
                proxy.heal()
        finally:
            for proxy in self._proxies:
                proxy.heal()

    @property
    def happened(self) -> Counter[Fault]:
        """How many connections each fault has really hit."""
        return sum((proxy.counts for proxy in self._proxies), Counter())
