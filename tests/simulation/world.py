"""One simulation from its seed to its end: build, disturb, calm down, and look at what is left."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest

from blockyard_server.domain.requests import (
    CreateFleet,
    CreateInstance,
    DeleteInstance,
    FleetFields,
    InstanceFields,
    InstanceState,
    Renew,
    Request,
    UpdateFleet,
    UpdateInstance,
)
from blockyard_server.engine import batch, memory, transactor
from tests.simulation.client import Client, Network
from tests.simulation.database import Database
from tests.simulation.kernel import MS, SECOND, Kernel, Violation
from tests.simulation.server import Letter, Server
from tests.simulation.weather import draw_weather

DAY_US: Final = 3 * SECOND
"""For so long things go wrong; more often longer than shorter, by the seed."""
DEED_INTERVAL_US: Final = 1500 * MS
LOOK_INTERVAL_US: Final = 2500 * MS
"""How long a server's sweeper leaves the age of a fleet alone at most."""
MAX_STEPS: Final = 20_000
"""No simulation needs nearly so many."""
CALM_ROUNDS: Final = 16
"""Each gives the leases twice as long to end as the one before: 18 hours in all."""


FAULT: Final = "unexpected "
"""How a violation begins that is an exception of the engine's or of the simulation's, and no broken promise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    steps: int
    tally: Counter[str]
    violation: str | None
    trace: tuple[str, ...]


def simulate(seed: int, *, tracing: bool = False) -> Outcome:
    """Runs one seed."""
    kernel = Kernel(seed, tracing=tracing)
    violation = None
    with _silence():
        try:
            World(kernel).run()
        except Violation as found:
            violation = str(found)
        except Exception as fault:  # noqa: BLE001 - a fault of the engine, whatever it is, is found by this seed
            violation = f"{FAULT}{type(fault).__name__}: {fault}"
    return Outcome(seed, kernel.steps, kernel.tally, violation, tuple(kernel.trace or ()))


@contextmanager
def _silence() -> Iterator[None]:
    """The engine's log of many thousand faults would be all that one sees."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class World:
    """Everything there is in one simulation."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.weather = weather = draw_weather(kernel.chance)
        kernel.note(f"{weather}")
        self.fleets = tuple(f"fleet{n}" for n in range(weather.fleets))
        self.database = Database(kernel, weather)
        self.servers = [Server(self.database, f"server{n}", self.fleets) for n in range(weather.servers)]
        self.network = Network(self.database, self.servers)
        self.clients = [Client(self.network, self.database, f"client{n}", self.fleets) for n in range(weather.clients)]
        self.database.open_tokens = self._open_tokens
        self._day_us = kernel.between(DAY_US, 6 * DAY_US)

    def run(self) -> None:
        """From the beginning to the end. Raises Violation."""
        with pytest.MonkeyPatch.context() as limits:
            if self.weather.small_limits:
                limits.setattr(batch, "MAX_EXPIRED_AT_ONCE", 2)
                limits.setattr(transactor, "MAX_PRUNED_AT_ONCE", 2)
                limits.setattr(memory, "MAX_CATCH_UP", 3)
            self._build()
            self._disturb()
            self._settle()

    def _build(self) -> None:
        chance = self.kernel.chance
        self.kernel.calm = True
        for server in self.servers:
            server.start()
        for fleet in self.fleets:
            sizes = [chance.choice((2, 4, 8)) for _ in range(chance.randint(1, 3))]
            requests: list[Request] = [CreateFleet(fleet, FleetFields())]
            requests += [CreateInstance(fleet, f"n{n}", InstanceFields(size)) for n, size in enumerate(sizes)]
            self.servers[0].build(fleet, requests)
        self.kernel.calm = False

    def _disturb(self) -> None:
        for client in self.clients:
            self.kernel.after(self.kernel.chance.randint(0, 100 * MS), client.begin)
        self.kernel.after(self.kernel.between(MS, DEED_INTERVAL_US), self._deed)
        if self.weather.forgetting:
            for server in self.servers:
                self.kernel.after(self.kernel.between(MS, LOOK_INTERVAL_US), partial(self._keep_forgetting, server))
        until_us = self.kernel.now_us + self._day_us
        while self.kernel.now_us < until_us and self.kernel.step():
            if self.kernel.steps > MAX_STEPS:
                raise Violation("the simulation does not come to an end")

    def _deed(self) -> None:
        if self.kernel.calm:
            return
        deed = self.kernel.chance.choice(self.weather.deeds)
        self.kernel.tally[f"deed: {deed}"] += 1
        self.kernel.note(f"deed: {deed}")
        _DEEDS[deed](self, self.kernel.chance.choice(self.servers), self.kernel.chance.choice(self.fleets))
        self.kernel.after(self.kernel.between(MS, DEED_INTERVAL_US), self._deed)

    def _keep_forgetting(self, server: Server) -> None:
        if self.kernel.calm:
            return
        for fleet in self.fleets:
            server.forget(fleet)
        self.kernel.after(self.kernel.between(MS, LOOK_INTERVAL_US), partial(self._keep_forgetting, server))

    def _sweep(self, server: Server, fleet: str) -> None:
        server.sweep(fleet)

    def _prune(self, server: Server, fleet: str) -> None:
        """Whatever has ended, however young: so that what is gone matters more often."""
        server.prune(fleet, self.database.rows(fleet).revision)

    def _open_tokens(self) -> set[str]:
        """Those whose messages may still be on their way: the retention is longer than any message lives."""
        return {
            intent.token for client in self.clients for intent in client.intents if intent.copies or not intent.over
        }

    def _compact(self, server: Server, fleet: str) -> None:
        """Whatever is older than some event: a server may still look for its own commit if that is the latest."""
        server.compact(fleet, self.kernel.chance.choice(self.database.rows(fleet).journal).revision - 1)

    def _verify(self, server: Server, fleet: str) -> None:
        server.verify(fleet)

    def _shape(self, _server: Server, fleet: str) -> None:
        chance = self.kernel.chance
        name = f"n{chance.randint(0, 3)}"
        request: Request = chance.choice(
            (
                CreateInstance(fleet, name, InstanceFields(4)),
                DeleteInstance(fleet, name),
                UpdateInstance(fleet, name, {"total_blocks": chance.choice((2, 4, 8))}),
                UpdateInstance(fleet, name, {"state": chance.choice(tuple(InstanceState))}),
                UpdateInstance(fleet, name, {"state": InstanceState.ACTIVE}),
            )
        )
        self._send(fleet, request)

    def _policy(self, _server: Server, fleet: str) -> None:
        chance = self.kernel.chance
        changes = {"default_ttl_us": chance.choice((None, SECOND)), "max_ttl_us": chance.choice((None, 3 * SECOND))}
        self._send(fleet, UpdateFleet(fleet, changes))

    def _send(self, fleet: str, request: Request) -> None:
        self.kernel.chance.choice(self.servers).deliver(fleet, Letter(request, lambda _outcome: None, lambda: None))

    def _crash(self, server: Server, _fleet: str) -> None:
        if server.up:
            self.kernel.happened("crash between two calls")
            server.die()

    def _stop(self, server: Server, _fleet: str) -> None:
        server.stop_for(self.kernel.between(10 * MS, 90 * SECOND))

    def _outage(self, _server: Server, _fleet: str) -> None:
        self.database.away_until_us = self.kernel.now_us + self.kernel.between(10 * MS, 10 * SECOND)

    def _clock(self, _server: Server, _fleet: str) -> None:
        if not self.weather.own_clock:
            by_us = self.kernel.chance.choice(self.weather.clock_steps_us)
            self.kernel.happened(f"database's clock set by {by_us / SECOND} s")
            self.database.clock.set_by(by_us)
            self.database.shaken = self.kernel.chance.randint(0, 4)

    def _halt(self, server: Server, fleet: str) -> None:
        server.halt(fleet)
        self.kernel.after(self.kernel.between(MS, 3 * SECOND), partial(self._resume, fleet))

    def _resume(self, fleet: str) -> None:
        self.kernel.chance.choice(self.servers).resume(fleet)

    def _aim(self, server: Server, fleet: str) -> None:
        """Something happens at the very microsecond at which a lease ends."""
        rows = self.database.rows(fleet)
        leases = [a for a in rows.live() if a.expire_time_us is not None]
        if leases:
            aimed = self.kernel.chance.choice(leases)
            at_us = server.when_it_is(fleet, aimed.expire_time_us or 0)
            hit = partial(self._hit, server, fleet, aimed.allocation, self.kernel.chance.choice("rrsa"))
            self.kernel.at(at_us, hit)

    def _hit(self, server: Server, fleet: str, allocation: int, how: str) -> None:
        self.kernel.tally["aimed at an end"] += 1
        if how == "s":
            server.sweep(fleet)
        elif how == "r":
            server.ask_at_once(fleet, Renew(fleet, allocation))
        else:
            free = [client for client in self.clients if not client.busy]
            for client in free[:1]:
                client.begin()

    def _settle(self) -> None:
        """No more faults: everybody comes to an end, and nothing is left."""
        self.kernel.note("calm")
        self.kernel.calm = True
        self.database.away_until_us = 0
        for client in self.clients:
            client.end_day()
        for number in range(CALM_ROUNDS):
            self._calm_round(number)
            if not self._unsettled():
                break
        else:
            raise Violation(f"in the end there is {self._unsettled()}")
        for server in self.servers:
            for fleet in self.fleets:
                if not server.verify(fleet):
                    raise Violation(f"{server.name} cannot verify {fleet} in the end")
                self.database.ledgers[fleet].books.compare(self.database.rows(fleet))

    def _calm_round(self, number: int) -> None:
        """All restart who are down, halts are lifted, and leases have the time to end."""
        for server in self.servers:
            server.start()
            for fleet in self.fleets:
                server.resume(fleet)
        until_us = self.kernel.now_us + 20 * SECOND
        while self.kernel.now_us < until_us and self.kernel.step():
            pass
        self.kernel.pass_time(SECOND << number)
        for fleet in self.fleets:
            self.kernel.chance.choice(self.servers).sweep(fleet)

    def _unsettled(self) -> str:
        what = [f"{client.name} at work" for client in self.clients if client.busy]
        what += [f"{server.name} down" for server in self.servers if not server.up]
        for fleet, rows in self.database.fleets.items():
            what += [f"{fleet} halted"] * rows.halted + [f"{len(rows.held)} blocks of {fleet} held"] * bool(rows.held)
        return ", ".join(what)


_DEEDS: Final = {
    "sweep": World._sweep,
    "prune": World._prune,
    "compact": World._compact,
    "verify": World._verify,
    "shape": World._shape,
    "policy": World._policy,
    "crash": World._crash,
    "stop": World._stop,
    "outage": World._outage,
    "clock": World._clock,
    "halt": World._halt,
    "aim": World._aim,
}
