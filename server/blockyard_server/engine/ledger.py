"""Verify and Repair: one at a time in a server, so that none reads what another is repairing.

A fleet in which Verify finds a difference is halted, and served again only once Verify finds none.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import Discrepancy, RepairReport, VerifyReport
from blockyard_server.domain.repair import Plan
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import Overloaded, ShuttingDown, StoreUnavailable, failure_of_store
from blockyard_server.engine.repair import Planned, Repairer, dry_run_report, plan, report_of
from blockyard_server.engine.store_protocol import Evidence, StoreFailed
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import audit
from blockyard_server.engine.verify_snapshot import VerifySnapshot
from blockyard_server.engine.writers import Writers

MAX_WAITING_AUDITS: Final = 8
"""Verifies and Repairs that may be under way or waiting for the one worker."""
MAX_LOOKS: Final = 3
"""How often a fleet is verified that another server changes before it can be served again."""

T = TypeVar("T")
Report = TypeVar("Report", VerifyReport, RepairReport)


class LedgerWork:
    """All that compares a fleet's records, apart from the background's slices, which take their turn with `turn`."""

    def __init__(self, writers: Writers, transactor: Transactor, counts: Counts) -> None:
        self._writers = writers
        self._transactor = transactor
        self._counts = counts
        self._repairer = Repairer(transactor)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blockyard-verify")
        self.turn = asyncio.Lock()
        self._ending = False
        self._evidence: Evidence | None = None
        """What the worker reads now: there is one turn, and so one snapshot."""
        self._tasks: set[asyncio.Task[VerifyReport] | asyncio.Task[RepairReport]] = set()

    def end(self) -> None:
        """What is under way or waits ends soon, with ShuttingDown, and no more begins. Does not wait for that.

        A repair is not cut off in its one transaction; after it, it ends before it has verified.
        """
        self._ending = True
        if self._evidence is not None:
            self._evidence.abandon()

    async def stop(self) -> None:
        """Ends what is under way."""
        self.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._worker.shutdown()

    async def verify(self, fleet: str) -> VerifyReport:
        """Compares all records of a fleet at one revision; halts it if they differ. Raises Refused, EngineFailure.

        The client may go away meanwhile; the comparison goes on, because only it closes the snapshot.
        """
        self._expect_room()
        return await self._shielded(asyncio.create_task(self._verify(fleet), name="blockyard-verify"))

    async def repair(self, fleet: str, *, apply: bool, actor: Actor | None = None) -> RepairReport:
        """Says what would make the records agree and, with `apply`, does it. Raises Refused, EngineFailure."""
        self._expect_room()
        work = self._repair(fleet, actor) if apply else self._dry_run(fleet)
        return await self._shielded(asyncio.create_task(work, name="blockyard-repair"))

    async def in_worker(self, work: Callable[[], T]) -> T:
        """Runs what is slow in the one worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def read(self, snapshot: VerifySnapshot, work: Callable[[VerifySnapshot], T]) -> T:
        """Runs what reads a snapshot, and closes it, in the worker thread. The caller has the turn.

        Raises ShuttingDown if `end` was called before the snapshot was read, StoreFailed.
        """
        self._evidence = snapshot.evidence
        if self._ending:
            snapshot.evidence.abandon()
        try:
            return await self.in_worker(lambda: work(snapshot))
        except StoreFailed:
            self.expect_going_on()
            raise
        finally:
            self._evidence = None

    def expect_going_on(self) -> None:
        """Raises ShuttingDown."""
        if self._ending:
            raise ShuttingDown("the server is stopping; nothing was done: try again at another one or later")

    async def halt(self, fleet: str, found: tuple[Discrepancy, ...]) -> None:
        """Stops a fleet's writes because of these differences."""
        self._counts.discrepancies += len(found)
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        halt = partial(self._transactor.halt, fleet, describe(found[0]) + more)
        await self._writers.of(fleet).run_exclusive(halt, however_many=True)

    def _expect_room(self) -> None:
        self.expect_going_on()
        if len(self._tasks) >= MAX_WAITING_AUDITS:
            raise Overloaded(
                f"{MAX_WAITING_AUDITS} Verifies are waiting, the most that this server accepts; try again later",
                maximum=MAX_WAITING_AUDITS,
            )

    async def _shielded(self, task: "asyncio.Task[Report]") -> Report:
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: "asyncio.Task[VerifyReport] | asyncio.Task[RepairReport]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits any more, and asyncio would report it as lost

    async def _verify(self, fleet: str) -> VerifyReport:
        async with self.turn:
            return await self._compare(fleet)

    async def _compare(self, fleet: str) -> VerifyReport:
        self.expect_going_on()
        try:
            snapshot = await self._writers.of(fleet).run_exclusive(lambda: self._transactor.snapshot(fleet))
            report = await self.read(snapshot, partial(audit, fleet))
        except StoreFailed as failure:
            raise failure_of_store(failure, "the database cannot be read; try again") from failure
        self._counts.verifies += 1
        if not report.clean and not snapshot.halted:
            await self.halt(fleet, report.discrepancies)
        return report

    async def _dry_run(self, fleet: str) -> RepairReport:
        async with self.turn:
            snapshot, planned = await self._plan(fleet)
            return dry_run_report(planned, halted=snapshot.halted)

    async def _plan(self, fleet: str) -> tuple[VerifySnapshot, Planned]:
        self.expect_going_on()
        try:
            snapshot = await self._writers.of(fleet).run_exclusive(lambda: self._transactor.snapshot(fleet))
            return snapshot, await self.read(snapshot, partial(plan, fleet))
        except StoreFailed as failure:
            raise failure_of_store(failure, "the database cannot be read; try again") from failure

    async def _repair(self, fleet: str, actor: Actor | None) -> RepairReport:
        async with self.turn:
            planned = await self._apply(fleet, actor)
            self._counts.repairs += bool(planned.corrections)
            try:
                return report_of(planned, await self._compare_and_resume(fleet))
            except ShuttingDown:
                if not planned.corrections:
                    raise
                made = f"{len(planned.corrections)} corrections were made, and the server stops before it has verified"
                raise ShuttingDown(f"{made}; repair again at another one or later") from None

    async def _compare_and_resume(self, fleet: str) -> VerifyReport:
        """What Verify finds after a repair; if that is nothing, the fleet is served again."""
        report = await self._compare(fleet)
        for _ in range(MAX_LOOKS):
            resume = partial(self._repairer.resume, fleet, report.revision)
            if not report.clean or await self._writers.of(fleet).run_exclusive(resume):
                break
            report = await self._compare(fleet)
        return report

    async def _apply(self, fleet: str, actor: Actor | None) -> Plan:
        """Carries out what is planned for the fleet as it is; one that changes meanwhile is made to stand still."""
        for _ in range(MAX_LOOKS):
            _, planned = await self._plan(fleet)
            corrections = planned.plan.corrections
            apply = partial(self._repairer.apply, fleet, planned, actor)
            if not corrections or await self._writers.of(fleet).run_exclusive(apply):
                return planned.plan
            halt = partial(self._transactor.halt, fleet, f"its records need {len(corrections)} corrections")
            await self._writers.of(fleet).run_exclusive(halt, however_many=True)
        raise StoreUnavailable("the fleet is being changed from elsewhere; repair again")


def describe(found: Discrepancy) -> str:
    """A difference in words, for the log."""
    where = f"instance {found.instance}, " if found.instance is not None else ""
    where += f"allocation {found.allocation}, " if found.allocation is not None else ""
    return f"{where}{found.check.value}: expected {found.expected}, found {found.actual}"
