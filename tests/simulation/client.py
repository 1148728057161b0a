"""A simulated client: acquires, works, renews, releases, loses patience, and dies, by the rules that the SDK keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from blockyard_server.domain.answers import Grant, Renewal
from blockyard_server.domain.errors import AllocationEnded, AllocationNotFound, LeaseExpired
from blockyard_server.domain.requests import Acquire, Demand, Release, Renew, Request
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.failures import EngineFailure
from tests.simulation.database import Database
from tests.simulation.holds import Hold
from tests.simulation.kernel import MS, SECOND, Clock, Violation
from tests.simulation.server import Letter, Server

CALLER: Final = "slurm"
PATIENCE_US: Final = 400 * MS
"""A client waits so long for an answer before it asks again."""
BACKOFF_US: Final = 200 * MS
ATTEMPTS: Final = 3
"""An Acquire without an answer is given up after so many."""


@dataclass(eq=False, slots=True)
class Intent:
    """What one token stands for. While copies of its messages are on their way, the token must not be forgotten."""

    fleet: str
    token: str
    copies: int = 0
    over: bool = False


class Network:
    """Between clients and servers: loses, delays, doubles and reorders."""

    def __init__(self, database: Database, servers: list[Server]) -> None:
        self.kernel = database.kernel
        self.weather = database.weather
        self._servers = servers

    def send(self, intent: Intent, request: Request, reply: Callable[[Outcome | EngineFailure], None]) -> int:
        """Sends to a server, or to two. Answers how many copies went."""
        copies = 2 if self._odds(self.weather.doubled, "request doubled") else 1
        for _ in range(copies):
            self._send_one(intent, request, reply)
        return copies

    def _send_one(self, intent: Intent, request: Request, reply: Callable[[Outcome | EngineFailure], None]) -> None:
        server = self.kernel.chance.choice(self._servers)
        if self._odds(self.weather.request_lost, "request lost"):
            return
        intent.copies += 1

        def gone() -> None:
            intent.copies -= 1

        letter = Letter(request, partial(self._answer, reply), gone)
        self.kernel.after(self._delay_us(), partial(server.deliver, intent.fleet, letter))

    def _answer(self, reply: Callable[[Outcome | EngineFailure], None], outcome: Outcome | EngineFailure) -> None:
        if not self._odds(self.weather.answer_lost, "answer lost"):
            self.kernel.after(self._delay_us(), partial(reply, outcome))

    def _odds(self, probability: float, what: str) -> bool:
        if self.kernel.calm or not self.kernel.odds(probability):
            return False
        self.kernel.happened(what)
        return True

    def _delay_us(self) -> int:
        if self._odds(self.weather.slow, "message delayed"):
            return self.kernel.between(10 * MS, self.weather.longest_delay_us)
        return self.kernel.chance.randint(100, 5 * MS)


class Errand:
    """Asks until there is an answer, or until it is given up."""

    def __init__(
        self,
        network: Network,
        intent: Intent,
        request: Request,
        *,
        done: Callable[[Outcome], None],
        given_up: Callable[[], None] | None = None,
    ) -> None:
        """`given_up` None: it is never."""
        self._network = network
        self._kernel = network.kernel
        self._intent = intent
        self._request = request
        self._done = done
        self._given_up = given_up
        self._attempts = 0
        self._answers = 0
        self._over = False
        self.copies = 0
        self._send()

    @property
    def unanswered(self) -> bool:
        """Whether a copy may still do something."""
        return self.copies > self._answers

    def stop(self) -> None:
        """Whoever waited for it is not there any more."""
        self._over = True

    def _send(self) -> None:
        if self._over:
            return
        self._attempts += 1
        self.copies += self._network.send(self._intent, self._request, self._answered)
        self._kernel.after(PATIENCE_US, partial(self._lose_patience, self._attempts))

    def _answered(self, outcome: Outcome | EngineFailure) -> None:
        if self._over:
            return
        if isinstance(outcome, EngineFailure):
            self._kernel.after(BACKOFF_US, partial(self._lose_patience, self._attempts))
            return
        self._answers += 1
        self._over = True
        self._done(outcome)

    def _lose_patience(self, attempt: int) -> None:
        if self._over or attempt != self._attempts:
            return
        if self._given_up is not None and attempt >= ATTEMPTS:
            self._over = True
            self._given_up()
        else:
            self._send()


class Client:
    """One scheduler's job after another."""

    def __init__(self, network: Network, database: Database, name: str, fleets: tuple[str, ...]) -> None:
        self.name = name
        self.busy = False
        self._network = network
        self._database = database
        self._kernel = database.kernel
        drift_ppm = database.weather.drift_ppm
        ahead_us, fast_ppm = self._kernel.chance.randint(0, SECOND), self._kernel.chance.randint(-drift_ppm, drift_ppm)
        self._clock = Clock(self._kernel, ahead_us=ahead_us, fast_ppm=fast_ppm)
        self._fleets = fleets
        self._number = 0
        self._hold: Hold | None = None
        self._intent = Intent("", "", over=True)
        self.intents: list[Intent] = []
        self.requests: dict[str, Acquire] = {}
        """The Acquire of each token."""

    def begin(self) -> None:
        """The next job, unless the day is over."""
        if self._kernel.calm or self.busy:
            return
        self.busy = True
        chance = self._kernel.chance
        self._number += 1
        self._intent = intent = Intent(chance.choice(self._fleets), f"{self.name}-{self._number}")
        self.intents.append(intent)
        demand = Demand(instances=chance.choice((1, 1, 1, 2)), blocks=chance.choice((1, 1, 2, 3)))
        if chance.random() < 0.1:
            demand = Demand(exclusive=True)
        ttl_us = chance.choice(self._database.weather.ttls_us)
        request = Acquire(intent.fleet, CALLER, intent.token, self.name, (demand,), ttl_us=ttl_us)
        self.requests[intent.token] = request
        sent_us = self._clock.now_us()
        errand: Errand
        errand = Errand(
            self._network,
            intent,
            request,
            done=lambda outcome: self._acquired(intent, errand, sent_us, outcome),
            given_up=lambda: self._close_door(intent),
        )

    def _acquired(self, intent: Intent, errand: Errand, sent_us: int, outcome: Outcome) -> None:
        if isinstance(outcome, Grant):
            self._work(intent, sent_us, outcome)
        elif errand.unanswered or isinstance(outcome, AllocationEnded):
            self._close_door(intent)
        else:
            self._kernel.tally["refused"] += 1
            self._finish(intent)

    def _work(self, intent: Intent, sent_us: int, grant: Grant) -> None:
        allocation = grant.view.allocation
        blocks = {(name, block) for name, numbers in allocation.placements for block in numbers}
        hold = Hold(self.name, self._clock, intent.fleet, allocation.allocation, blocks, None)
        self._keep(hold, sent_us, grant)
        if not hold.believed():
            self._kernel.happened("grant came too late")
            self._close_door(intent)
            return
        if self._kernel.trace is not None:
            self._kernel.note(f"{self.name} works on {sorted(blocks)} as {hold.allocation} until {hold.lost_at_us}")
        self._kernel.tally["client works"] += 1
        self._hold = hold
        self._database.ledgers[intent.fleet].holds.begin(hold, self._database.rows(intent.fleet).held)
        if hold.lost_at_us is not None and self._kernel.odds(self._database.weather.client_crash):
            self._kernel.after(self._kernel.between(MS, SECOND), partial(self._crash, intent, hold))
        longest_us = 2 * SECOND if hold.lost_at_us is None else 2 * (hold.lost_at_us - sent_us)
        self._kernel.after(self._kernel.between(MS, longest_us), partial(self._end_work, intent, hold))

    def _keep(self, hold: Hold, sent_us: int, granted: Grant | Renewal) -> None:
        """Counts the lease from before it was asked for, and asks again at a third of it."""
        expire_time_us = granted.view.allocation.expire_time_us
        if expire_time_us is None:
            hold.lost_at_us = None
            return
        span_us = expire_time_us - granted.time_us
        ttl_us = granted.view.allocation.ttl_us or 0
        if span_us > ttl_us:
            raise Violation(f"{self.name} is told of {span_us} us of a lease whose TTL is {ttl_us} us")
        hold.lost_at_us = sent_us + span_us * 2 // 3
        renew_at_us = self._clock.when_it_shows(sent_us + span_us // 3)
        self._kernel.at(renew_at_us, partial(self._renew, hold, span_us))

    def _renew(self, hold: Hold, span_us: int) -> None:
        if hold.stopped or hold is not self._hold:
            return
        if not hold.believed():
            self._lose(hold)
            return
        sent_us = self._clock.now_us()
        intent = self._intent
        request = Renew(hold.fleet, hold.allocation, holder=self.name, fencing_token=hold.allocation)

        def answered(outcome: Outcome | EngineFailure) -> None:
            if hold.stopped or not hold.believed():
                return
            if isinstance(outcome, Renewal):
                self._kernel.tally["client renewed"] += 1
                self._keep(hold, sent_us, outcome)
            elif isinstance(outcome, LeaseExpired | AllocationEnded | AllocationNotFound):
                self._lose(hold)

        self._network.send(intent, request, answered)
        self._kernel.after(max(MS, span_us // 12), partial(self._renew_unless_renewed, hold, span_us, hold.lost_at_us))

    def _renew_unless_renewed(self, hold: Hold, span_us: int, lost_at_us: int | None) -> None:
        if hold.lost_at_us == lost_at_us:
            self._renew(hold, span_us)

    def _lose(self, hold: Hold) -> None:
        self._kernel.happened("lease lost")
        self._stop(hold)
        self._close_door(self._intent)

    def _crash(self, intent: Intent, hold: Hold) -> None:
        if hold is self._hold and not self._kernel.calm:
            self._kernel.happened("client crash")
            self._stop(hold)
            self._finish(intent)

    def _stop(self, hold: Hold) -> None:
        self._database.ledgers[hold.fleet].holds.end(hold)
        self._hold = None

    def _end_work(self, intent: Intent, hold: Hold) -> None:
        if hold is not self._hold:
            return
        chance = self._kernel.chance
        if len(hold.blocks) > 1 and chance.random() < 0.3:
            name, block = chance.choice(sorted(hold.blocks))
            hold.blocks.discard((name, block))
            part = Release(hold.fleet, CALLER, hold.allocation, placements=((name, (block,)),))
            Errand(self._network, intent, part, done=lambda _outcome: self._release_rest(intent, hold))
            return
        self._release_rest(intent, hold)

    def _release_rest(self, intent: Intent, hold: Hold) -> None:
        if hold is not self._hold:
            return
        self._stop(hold)
        request = Release(hold.fleet, CALLER, hold.allocation, holder=self.name, fencing_token=hold.allocation)
        if self._kernel.chance.random() < 0.3:
            self._network.send(intent, request, lambda _outcome: None)
        Errand(self._network, intent, request, done=lambda _outcome: self._finish(intent))

    def _close_door(self, intent: Intent) -> None:
        """Whatever became of it, nothing stays held by this token."""
        self._kernel.tally["door closed"] += 1
        request = Release(intent.fleet, CALLER, token=intent.token)
        Errand(self._network, intent, request, done=lambda _outcome: self._finish(intent))

    def _finish(self, intent: Intent) -> None:
        intent.over = True
        self.busy = False
        self._kernel.after(self._kernel.between(MS, 500 * MS), self.begin)

    def end_day(self) -> None:
        """Releases what it holds, and begins nothing new."""
        if self._hold is not None:
            self._release_rest(self._intent, self._hold)
