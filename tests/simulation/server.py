"""A simulated server: the real transactor over the simulated database, with a queue, a clock, crashes and starts."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from blockyard_server.domain.requests import Request
from blockyard_server.engine.batch import Attempt, Outcome, RetryNextBatch
from blockyard_server.engine.failures import EngineFailure, InvariantViolated
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import audit
from tests.simulation.call import Call
from tests.simulation.database import Crash, Database, SimulatedStore
from tests.simulation.kernel import HOUR, MS, SECOND, Clock, Violation

GRACE_S: Final = 3600.0
"""No lease here is longer, and no clock is set forward by more."""
MAX_BATCH: Final = 4
LINGER_US: Final = MS

Reply = Callable[[Outcome | EngineFailure], None]

T = TypeVar("T")


@dataclass(slots=True)
class Letter:
    """A request on its way, and what happens with its answer. `gone` is called when it can do nothing any more."""

    request: Request
    reply: Reply
    gone: Callable[[], None]


class Server:
    """One process after the other, under one name."""

    def __init__(self, database: Database, name: str, fleets: tuple[str, ...]) -> None:
        self.name = name
        self.fleets = fleets
        self.up = False
        """It serves."""
        self._starting = False
        self._stopped_until_us = 0
        self._database = database
        self._kernel = database.kernel
        self._calls: dict[str, Call] = {}
        """What is being done, by fleet."""
        self._waiting: dict[str, deque[Letter]] = {fleet: deque() for fleet in fleets}
        self._life = 0
        self._transactor = self._new_transactor()

    @property
    def transactor(self) -> Transactor:
        """The transactor of the process that runs now."""
        return self._transactor

    def start(self) -> None:
        """A new process: all that it knows is what the database says. If that fails, it is started again later."""
        if self.up or self._starting:
            return
        self._transactor = self._new_transactor()
        life = self._life
        self._starting = True
        self._kernel.note(f"start of {self.name}")
        try:
            for work in (self._transactor.load, self._transactor.extend_leases_on_takeover):
                for fleet in self.fleets:
                    self._prepare(fleet, partial(work, fleet))
            self.up = True
        except (Crash, EngineFailure):
            self._kernel.happened("start failed")
            self._died(life)
        finally:
            self._starting = False

    def _prepare(self, fleet: str, work: Callable[[], None]) -> None:
        try:
            self._call(fleet, "start", work)
        except InvariantViolated:
            self._kernel.note(f"{self.name} starts with {fleet} halted")

    def build(self, fleet: str, requests: list[Request]) -> None:
        """Makes a fleet, before anything goes wrong."""
        self.carry_out(fleet, requests)

    def stop_for(self, pause_us: int) -> None:
        """As SIGSTOP does: nothing is lost, and nothing is done for a while."""
        self._kernel.happened("server stopped between two calls")
        self._stopped_until_us = self._kernel.now_us + pause_us

    def when_it_is(self, fleet: str, time_us: int) -> int:
        """The true time at which the fleet's time will be this for a transaction of this server."""
        clock = self._clock if self._database.weather.own_clock else self._database.clock
        return clock.when_it_shows(time_us - self._database.rows(fleet).clock_offset_us)

    def ask_at_once(self, fleet: str, request: Request) -> None:
        """A request that needs no time on its way."""
        if self._free(fleet):
            life = self._life
            try:
                self.carry_out(fleet, [request])
            except EngineFailure as failure:
                self._kernel.note(f"{self.name}: {failure}")
            except Crash:
                self._died(life)

    def die(self) -> None:
        """The process ends, and with it all that it knows."""
        self.up = False
        self._life += 1
        for call in self._calls.values():
            call.dead = True
        self._calls = {}
        self._kernel.tally["server ended"] += 1
        for letters in self._waiting.values():
            for letter in letters:
                letter.gone()
            letters.clear()
        self._kernel.after(self._kernel.between(10 * MS, 10 * SECOND), self.start)

    def deliver(self, fleet: str, letter: Letter) -> None:
        """A request arrives."""
        if not self.up:
            letter.gone()
            return
        self._waiting[fleet].append(letter)
        self._kernel.after(self._kernel.chance.randint(0, LINGER_US), partial(self._work, fleet))

    def _work(self, fleet: str) -> None:
        letters = self._waiting[fleet]
        if not self.up or not letters:
            return
        if not self._free(fleet):
            self._kernel.after(max(MS, self._stopped_until_us - self._kernel.now_us), partial(self._work, fleet))
            return
        batch = [letters.popleft() for _ in range(min(len(letters), MAX_BATCH))]
        life = self._life
        outcomes: list[Outcome] | list[EngineFailure] = []
        try:
            outcomes = self.carry_out(fleet, [letter.request for letter in batch])
        except EngineFailure as failure:
            outcomes = [failure] * len(batch)
        except Crash:
            self._died(life)
        if life != self._life:
            for letter in batch:
                letter.gone()
            return
        again = [letter for letter, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, RetryNextBatch)]
        for letter, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, RetryNextBatch):
                letter.reply(outcome)
                letter.gone()
        letters.extendleft(reversed(again))
        if letters:
            self._kernel.after(0, partial(self._work, fleet))

    def _died(self, life: int) -> None:
        if life == self._life:
            self.die()

    def carry_out(self, fleet: str, requests: list[Request]) -> list[Outcome]:
        """A batch, as the writer has it done. Raises EngineFailure, Crash."""
        call = Call(self.name, "batch", requests)

        def decide(attempt: Attempt) -> list[Outcome]:
            outcomes = self._transactor._decide(attempt, requests)
            call.decided(outcomes, attempt.now_us)
            return outcomes

        outcomes = self._call(fleet, call, lambda: self._transactor.in_transaction(fleet, decide))
        call.answered(outcomes)
        return outcomes

    def sweep(self, fleet: str) -> None:
        """As the sweeper does."""
        while self._sweep_some(fleet):
            self._kernel.tally["sweep that left something"] += 1

    def _sweep_some(self, fleet: str) -> bool | None:
        call = Call(self.name, "sweep")

        def decide(attempt: Attempt) -> bool:
            more = self._transactor._sweep(attempt)
            call.decided(None, attempt.now_us)
            return more

        return self._aside(fleet, call, lambda: self._transactor.in_transaction(fleet, decide))

    def forget(self, fleet: str) -> None:
        """As the sweeper does."""
        retention = self._database.weather.retention
        old = self._aside(fleet, "age", lambda: self._transactor.age(fleet, retention))
        if old is not None:
            self.prune(fleet, old.ended)
            self.compact(fleet, old.events)

    def prune(self, fleet: str, upto_revision: int) -> None:
        """As the sweeper does with what is old."""
        self._aside(fleet, "prune", lambda: self._transactor.prune(fleet, upto_revision))

    def compact(self, fleet: str, upto_revision: int) -> None:
        """As the sweeper does with what is old."""
        self._aside(fleet, "compact", lambda: self._transactor.compact(fleet, upto_revision))

    def halt(self, fleet: str) -> None:
        """As the auditor does when it has found something."""
        self._aside(fleet, "halt", lambda: self._transactor.halt(fleet, "the audit says so"))

    def resume(self, fleet: str) -> None:
        """As an operator does who has found nothing wrong."""

        def resume() -> None:
            self._transactor.in_transaction(
                fleet, lambda attempt: attempt.tx.set_halted(False), extend_leases=False, even_if_halted=True
            )
            self._transactor.resume(fleet)

        self._aside(fleet, "resume", resume)

    def verify(self, fleet: str) -> bool:
        """Whether Verify could be run. What it finds is a Violation."""
        snapshot = self._aside(fleet, "verify", lambda: self._transactor.snapshot(fleet))
        if snapshot is None:
            return False
        report = audit(fleet, snapshot)
        if not report.clean:
            raise Violation(f"{self.name} finds {report.discrepancies}")
        return True

    def _free(self, fleet: str) -> bool:
        stopped = self._kernel.now_us < self._stopped_until_us and not self._kernel.calm
        return self.up and not stopped and fleet not in self._calls

    def _aside(self, fleet: str, what: Call | str, work: Callable[[], T]) -> T | None:
        """Work between two batches. None: it failed, or the server is not free."""
        if not self._free(fleet):
            return None
        life = self._life
        try:
            return self._call(fleet, what, work)
        except Crash:
            self._died(life)
        except EngineFailure as failure:
            self._kernel.note(f"{self.name}: {failure}")
        return None

    def _call(self, fleet: str, what: Call | str, work: Callable[[], T]) -> T:
        """Does it, as the only one who works on this fleet in this server. Raises EngineFailure, Crash."""
        calls = self._calls
        calls[fleet] = call = what if isinstance(what, Call) else Call(self.name, what)
        if self._kernel.trace is not None:
            self._kernel.note(f"{call} {list(call.requests) or ''}")
        try:
            answer = work()
        finally:
            calls.pop(fleet, None)
        if not call.dead:
            self._check_memory(fleet)
        return answer

    def _check_memory(self, fleet: str) -> None:
        rows = self._database.rows(fleet)
        state = self._transactor._unit.memory._states.get(fleet)
        if state is None or state.revision != rows.revision:
            return
        ours = {i.name: (i.order, i.fields, i.busy, i.exclusive_to) for i in state.index.by_order.values()}
        busy = rows.busy_masks()
        theirs = {n: (r.order, r.fields, busy[n], r.exclusive_to) for n, r in rows.instances.items()}
        if ours != theirs:
            raise Violation(f"{self.name} remembers {ours}, and the rows are {theirs}")
        ends_us = [a.expire_time_us for a in rows.live() if a.expire_time_us is not None]
        bound_us = state.next_expire_time_us
        if ends_us and (bound_us is None or bound_us > min(ends_us)):
            raise Violation(f"{self.name} takes {bound_us} for the first end of a lease, and {min(ends_us)} is")

    def _new_transactor(self) -> Transactor:
        kernel, weather = self._kernel, self._database.weather
        # Where the database has no clock, the wall clock at the start is all there is: then it is set by little.
        steps_us = [0, *weather.clock_steps_us] if self._life or not weather.own_clock else [0]
        ahead_us = kernel.chance.choice(steps_us) if weather.own_clock else kernel.chance.randint(-HOUR, HOUR)
        self._clock = Clock(
            kernel, ahead_us=ahead_us, fast_ppm=kernel.chance.randint(-weather.drift_ppm, weather.drift_ppm)
        )
        store = SimulatedStore(self._database, self._calls)
        return Transactor(store, self._clock, grace_s=GRACE_S)  # type: ignore[arg-type]  # the writing half of a store
