"""What must be true at the end of a round, after a quiet restart: what the clients were told, and nothing else.

The record of all calls goes to both checkers of `tests/history`: the one that replays it in the order of the
revisions, and the one that looks from outside. They say whether every acknowledged grant was there with its blocks
until what its client was told ended it, whether a block had two holders, whether a token was granted twice.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blockyard import AsyncClient, CallFailed, Event, EventKind
from tests.chaos.disturbances import Violation
from tests.chaos.load import CALM_TIMEOUT_S, LEASE_FLEET, Load, describe
from tests.chaos.outsiders import check_file
from tests.chaos.stage import POLL_S, SETTINGS, Backup, Stage
from tests.harness.journal import check_fleet
from tests.harness.process import ServerProcess
from tests.history.black_box import check_black_box
from tests.history.files import read_history
from tests.history.record import History
from tests.history.wire import read_journal
from tests.history.witness import check_with_witness

SHOWN: Final = 3
"""Violations of one checker that are printed."""
WATCH_BOUND_S: Final = 60.0
"""A watch has come to the end of a journal that stands still within this."""
BY_THE_SERVER: Final = {EventKind.LEASES_EXTENDED, EventKind.EXPIRED}
"""Events that no client asks for."""


async def judge(stage: Stage, folder: Path) -> list[str]:
    """Restarts everything, has the clients find out what they hold, and compares. The violations."""
    load = stage.load
    violations: list[str] = []
    try:
        await load.stop_working()
        await _restart_quietly(stage)
        await load.settle()
        journals = await _read_what_there_is(stage)
        await _compare_watches(load, journals)
        for backup in stage.backups:
            await _compare_backup(stage, backup, journals)
    except Violation as violation:
        violations.append(str(violation))
    except (CallFailed, AssertionError) as wrong:
        violations.append(f"at the end, after a quiet restart: {describe(wrong)}")
    finally:
        await load.end()
    if not violations:
        for place in load.places:
            violations += check_history(place.fleet, read_history(folder / place.fleet))
    return violations


async def _restart_quietly(stage: Stage) -> None:
    await stage.dismiss_all()
    for server in stage.servers:
        await stage.stop(server, kill=False)
    if stage.data is not None:
        await asyncio.to_thread(check_file, stage.data, "the data file")
    for server in stage.servers:
        await stage.start(server)


async def _read_what_there_is(stage: Stage) -> dict[str, list[Event]]:
    """The journals. Raises AssertionError if what a server says of a fleet contradicts itself."""
    load = stage.load
    for server in stage.servers:
        async with AsyncClient(server.address, timeout_s=CALM_TIMEOUT_S) as client:
            for fleet in [place.fleet for place in load.places] + [LEASE_FLEET]:
                await check_fleet(client, fleet)
    async with AsyncClient(stage.servers[0].address, timeout_s=CALM_TIMEOUT_S) as client:
        for place in load.places:
            place.writer.write_journal([event async for event in read_journal(client, place.fleet)])
        return {place.fleet: [event async for event in client.list_events(place.fleet)] for place in load.places}


async def _until_watched(seen: Sequence[Event], journal: Sequence[Event]) -> None:
    deadline = time.monotonic() + WATCH_BOUND_S
    while len(seen) < len(journal):
        if time.monotonic() > deadline:
            raise Violation(f"a watch stays at revision {len(seen)} of {len(journal)}")
        await asyncio.sleep(POLL_S)


async def _compare_watches(load: Load, journals: dict[str, list[Event]]) -> None:
    """Every watch was told the journal, event by event."""
    for fleet, journal in journals.items():
        seen = load.watched[fleet]
        await _until_watched(seen, journal)
        for told, event in zip(seen, journal, strict=False):
            if told != event:
                raise Violation(f"a watch of {fleet} was told {told}, and the journal has {event}")
        if len(seen) > len(journal):
            raise Violation(f"a watch of {fleet} was told {seen[len(journal)]}, which the journal does not have")


async def _compare_backup(stage: Stage, backup: Backup, journals: dict[str, list[Event]]) -> None:
    """A server on the copy: its journal is the beginning of the journal, with all that had been acknowledged before."""
    with ServerProcess(stage.fresh_path("restored"), data=backup.path, **SETTINGS) as server:
        server.program = stage.servers[0].program
        await stage.start(server)
        async with AsyncClient(server.address, timeout_s=CALM_TIMEOUT_S) as client:
            for fleet, revision in backup.revisions.items():
                copied = [event async for event in client.list_events(fleet)]
                compare_copy(copied, journals[fleet], revision, f"the copy of {fleet} by {backup.how}")
                assert (await client.verify(fleet)).clean, f"Verify of the copy by {backup.how}"


def compare_copy(copied: Sequence[Event], journal: Sequence[Event], acknowledged: int, what: str) -> None:
    """Beyond the common beginning, the copy has only what a server does by itself at a start. Raises Violation."""
    same = 0
    while same < min(len(copied), len(journal)) and copied[same] == journal[same]:
        same += 1
    if same < acknowledged:
        raise Violation(f"{what} has only the first {same} of {acknowledged} acknowledged revisions")
    for event in copied[same:]:
        if event.kind not in BY_THE_SERVER:
            raise Violation(f"{what} has an event that nobody was told of: {event}")


def check_history(fleet: str, history: History) -> list[str]:
    """What both checkers say of the record of a fleet."""
    witness, black_box = check_with_witness(history), check_black_box(history)
    violations = [f"{fleet}, by revision: {each}" for each in witness.violations[:SHOWN]]
    violations += [f"{fleet}, from outside: {each}" for each in black_box.violations[:SHOWN]]
    if black_box.unsettled:
        violations.append(f"{fleet}: nobody knows what became of {black_box.unsettled} acquires")
    return violations
