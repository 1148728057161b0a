"""One server's life on a recorded disk: the real engine makes grants until its random work is done."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    Demand,
    FleetFields,
    InstanceFields,
    InstanceState,
    Release,
    Renew,
    Request,
    UpdateInstance,
)
from blockyard_server.domain.retention import Retention
from blockyard_server.engine.batch import Outcome, RetryNextBatch
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import StoreUnavailable
from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused
from blockyard_server.engine.transactor import Transactor
from tests.power.disk import Files, Step
from tests.power.outsiders import Outsiders
from tests.power.promises import NEVER_US, Promises, after_batch, digest_of
from tests.power.recorder import Lies, Recorder, Trouble
from tests.power.store import Pragmas, RecordedStore

FLEET: Final = "gpu"
CALLER: Final = "slurm"
DATA: Final = "blockyard.db"
INSTANCES: Final = {"n1": 8, "n2": 4, "n3": 16}
TTL_US: Final = 30_000_000
GRACE_S: Final = 60
RETENTION_US: Final = 60_000_000
MAX_BATCH: Final = 4
MAX_PAUSE_US: Final = 10_000_000
RESTART_EVERY: Final = 7
"""After so many batches the server is stopped or killed, and started again."""
MAX_TRIES: Final = 100
"""So often a batch is asked for again while the disk fails."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a life is like."""

    batches: int = 40
    outsiders: bool = True
    """Other programs have the database open, too."""
    pragmas: Pragmas = field(default_factory=Pragmas)
    lies: Lies = Lies.NONE
    full: float = 0.0
    """Of so many writes there is no room for one."""
    failing_syncs: float = 0.0
    """Of so many syncs one fails."""


class NeverStarts(AssertionError):
    """The data is in such a state that no server starts on it."""


@dataclass(frozen=True, slots=True)
class Life:
    """What happened: the steps on the disk, and what was promised when."""

    files: Files
    """What was on the disk at its begin."""
    steps: Sequence[Step]
    shared: Sequence[tuple[int, bytes]]
    """See Recorder."""
    promises: Sequence[Promises]
    """In order; the first one holds at the begin."""
    struck: Mapping[str, int]
    """How often the disk failed, by kind; how often the server was stopped or killed; what other programs did."""

    def due(self, cut: int) -> int:
        """The number of the last answered batch that was answered before step number `cut`."""
        told = (number for number, p in enumerate(self.promises) if p.steps <= cut and not p.in_doubt)
        return max(told)


def live(folder: Path, files: Files, before: Promises | None, random: Random, settings: Settings) -> Life:
    """A life that begins with these files, in an empty folder, and with what was promised `before` (None: nothing)."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    trouble = Trouble(settings.full, settings.failing_syncs)
    recorder = Recorder(folder, files, random, settings.lies, trouble)
    with recorder.installed():
        outsiders = Outsiders(folder / DATA, recorder.name, random)
        server = _Server(RecordedStore(folder / DATA, recorder, settings.pragmas), recorder, random, before, outsiders)
        server.start()
        server.set_up()
        for number in range(settings.batches):
            trouble.ailing = True
            server.work()
            if settings.outsiders:
                outsiders.turn()
            if number % RESTART_EVERY == RESTART_EVERY - 1:
                server.restart()
            trouble.ailing = False
        server.stop()
        outsiders.leave()
    return Life(files, recorder.steps, recorder.shared, server.promises, trouble.struck + server.ends + outsiders.did)


class _Server:
    """The engine's transactor over the store, with a clock that stands still between batches."""

    def __init__(
        self,
        store: RecordedStore,
        recorder: Recorder,
        random: Random,
        before: Promises | None,
        outsiders: Outsiders,
    ) -> None:
        self._store = store
        self._outsiders = outsiders
        self.ends: Counter[str] = Counter()
        """How often the server was stopped, was killed, and was refused at a start."""
        self._recorder = recorder
        self._random = random
        self._clock = ManualClock(before.now_us) if before else ManualClock()
        self._transactor = self._make_transactor()
        name = f"{random.getrandbits(32):x}"
        self._tokens = (f"{name}-{number}" for number in count())
        self._before = before
        self.promises: list[Promises] = []

    def start(self) -> None:
        """As Engine.start does it, again and again while the disk fails."""
        for _ in range(MAX_TRIES):
            try:
                self._load()
            except (StoreRefused, StoreUnavailable):
                # Other programs keep a log that a failed sync has spoilt from being emptied.
                self.ends["refused"] += 1
                if self.promises and self._store.attempted:
                    self._note_doubt()  # the leases may have been extended
                self._outsiders.leave()
                self._store.die()
            else:
                return self._promise([], [])
        raise NeverStarts(f"the server is refused {MAX_TRIES} times")

    def _load(self) -> None:
        self._store.open()
        if not self.promises:
            digest = digest_of(self._store.rows())
            begin = self._before or Promises(0, digest, self._clock.now_us())
            assert begin.digest == digest, "a life begins with what was found on the disk"
            self.promises.append(replace(begin, steps=0))
        self._transactor = self._make_transactor()
        for fleet in self._store.fleet_sizes():
            self._transactor.load(fleet)
            self._transactor.extend_leases_on_takeover(fleet)

    def _make_transactor(self) -> Transactor:
        return Transactor(self._store, self._clock, grace_s=GRACE_S)

    def stop(self) -> None:
        """As Engine.stop does it."""
        asyncio.run(self._store.close())
        self.ends["stopped"] += 1

    def restart(self) -> None:
        """Stops or kills the server, and starts it."""
        if self._random.random() < 0.5:
            self.stop()
        else:
            self._store.die()
            self.ends["killed"] += 1
        self.start()

    def set_up(self) -> None:
        """Makes the fleet and its instances; those that are there stay as they are."""
        instances = [CreateInstance(FLEET, name, InstanceFields(total)) for name, total in INSTANCES.items()]
        self._carry_out([CreateFleet(FLEET, FleetFields()), *instances])

    def work(self) -> None:
        """A batch of requests, or now and then what the sweeper does."""
        self._clock.advance(self._random.randrange(MAX_PAUSE_US))
        match self._random.randrange(10):
            case 0:
                self._until_done(lambda: self._transactor.expire_due(FLEET))
                self._promise([], [])
            case 1:
                cutoff_us = self._clock.now_us() - RETENTION_US
                old = self._until_done(lambda: self._transactor.age(FLEET, Retention(RETENTION_US, RETENTION_US)))
                self._promise([], [])
                self._until_done(lambda: self._transactor.prune(FLEET, old.ended))
                self._promise([], [], forgotten_before_us=cutoff_us)
            case _:
                self._carry_out([self._request() for _ in range(self._random.randint(1, MAX_BATCH))])

    def _carry_out(self, requests: list[Request]) -> None:
        self._promise(requests, self._until_done(lambda: self._transactor.carry_out(FLEET, requests)))

    def _until_done(self, work: Callable[[], T]) -> T:
        """Asks again, as clients do, while the disk fails; what is there in between was told to nobody."""
        for _ in range(MAX_TRIES):
            try:
                return work()
            except StoreUnavailable:
                self._note_doubt()
                if self._store.has_stopped:
                    self.restart()
        raise AssertionError("the disk failed again and again")

    def _note_doubt(self) -> None:
        """A COMMIT that failed may be found after a power cut, also if the server does not see it any more."""
        steps = len(self._recorder.steps)
        told = replace(self.promises[-1], steps=steps, now_us=self._clock.now_us(), in_doubt=True)
        self.promises.append(replace(told, digest=self._store.attempted))
        if self._store.has_stopped:
            return
        for _ in range(MAX_TRIES):
            with suppress(StoreFailed):
                self.promises.append(replace(told, digest=digest_of(self._store.rows())))
                return

    def _promise(
        self, requests: list[Request], outcomes: list[Outcome], *, forgotten_before_us: int = NEVER_US
    ) -> None:
        """Notes what was answered just now."""
        assert not any(isinstance(outcome, RetryNextBatch) for outcome in outcomes), "there are never so many leases"
        told = after_batch(self.promises[-1], requests, outcomes)
        steps, digest = len(self._recorder.steps), digest_of(self._store.rows())
        forgotten_before_us = max(told.forgotten_before_us, forgotten_before_us)
        self.promises.append(
            replace(
                told,
                steps=steps,
                digest=digest,
                now_us=self._clock.now_us(),
                forgotten_before_us=forgotten_before_us,
                in_doubt=False,
            )
        )

    def _request(self) -> Request:
        told, random = self.promises[-1], self._random
        held = [a for a in told.allocations.values() if a.is_held(self._clock.now_us())]
        if held and random.random() < 0.5:
            return self._change(random.choice(held))
        match random.randrange(10):
            case 0:
                return Release(FLEET, CALLER, token=next(self._tokens))
            case 1 if told.acquires:
                return random.choice(list(told.acquires.values()))
            case 2:
                state = random.choice([InstanceState.ACTIVE, InstanceState.CORDONED])
                return UpdateInstance(FLEET, "n2", {"state": state})
            case _:
                demand = Demand(instances=random.choice([1, 1, 2]), blocks=random.randint(1, 4))
                token, ttl_us = next(self._tokens), random.choice([None, TTL_US])
                return Acquire(FLEET, CALLER, token, f"job {token}", (demand,), ttl_us=ttl_us)

    def _change(self, held: Allocation) -> Request:
        match self._random.randrange(5):
            case 0:
                return Renew(FLEET, held.allocation)
            case 1:
                return Release(FLEET, CALLER, token=held.token)
            case 2 | 3:
                [instance, blocks], *_ = held.placements
                return Release(FLEET, CALLER, held.allocation, placements=((instance, blocks[:1]),))
            case _:
                return Release(FLEET, CALLER, held.allocation)
