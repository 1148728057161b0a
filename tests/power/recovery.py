"""What a server finds after a power cut, compared with what was promised before it."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import Grant
from blockyard_server.domain.errors import AllocationEnded, NoCapacity, TokenCancelled
from blockyard_server.domain.requests import Acquire, Demand
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.store_protocol import StoreRefused
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import audit
from blockyard_server.store.sqlite.store import SqliteStore
from tests.power.disk import Files
from tests.power.life import CALLER, DATA, FLEET
from tests.power.promises import Promises, digest_of
from tests.power.store import all_rows

NEW_TOKEN: Final = "after the power came back"


class Fault(StrEnum):
    """What may be wrong with what is found."""

    REFUSED = "the server does not start"
    DAMAGED = "the database cannot be read, or SQLite's own check finds damage"
    LOST = "what was acknowledged is gone"
    STRANGE = "what is found was never the state after any batch"
    UNTOLD = "an allocation is not as its client was told"
    UNCLEAN = "Verify finds differences"
    OTHERWISE = "a repeated request is answered otherwise"


Finding = tuple[Fault, str]
"""A fault and what exactly was seen."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one image."""

    state: int | None
    """Which of the promises is the state that was found; None for none of them."""
    faults: tuple[Finding, ...] = ()


def recover(folder: Path, files: Files, promises: Sequence[Promises], due: int) -> Found:
    """Starts the ordinary server on these files in an empty folder, and looks at everything.

    `due` is the number of the last promise that was made; the batch after it may have been under way.
    """
    for name, content in files.items():
        (folder / name).write_bytes(content)
    store = SqliteStore(folder / DATA)
    state: int | None = None
    faults: list[Finding] = []
    try:
        store.open()
        state = _state(store, promises, due)
        faults += _faults(store, promises, due, state)
    except StoreRefused as refused:
        faults.append((Fault.REFUSED, str(refused)))
    except Exception as failure:  # noqa: BLE001 - whatever a server dies of is a fault
        faults.append((Fault.DAMAGED, repr(failure)))
    finally:
        asyncio.run(store.close())
    return Found(state, tuple(faults))


def _state(store: SqliteStore, promises: Sequence[Promises], due: int) -> int | None:
    """The promise whose rows are those of the database; the due one and its neighbours first."""
    digest = digest_of(all_rows(store._connected()))
    after = next((n for n in range(due + 1, len(promises)) if not promises[n].in_doubt), len(promises) - 1)
    numbers: list[int] = [*range(due, after + 1), *reversed(range(due))]
    for number in numbers:
        if promises[number].digest == digest:
            return number
    return None


def _faults(store: SqliteStore, promises: Sequence[Promises], due: int, state: int | None) -> Iterator[Finding]:
    for pragma in ("integrity_check", "foreign_key_check"):
        rows = store._connected().execute(f"PRAGMA {pragma}").fetchall()
        if rows not in ([], [("ok",)]):
            yield Fault.DAMAGED, f"{pragma}: {rows[:3]}"
    if state is None:
        yield Fault.STRANGE, f"batch {due} was the last that was acknowledged"
    elif state < due:
        yield Fault.LOST, f"batch {state} is found, and batch {due} was acknowledged"
    promise = promises[due if state is None else max(due, state)]
    transactor = Transactor(store, ManualClock(promise.now_us))
    for fleet in store.fleet_sizes():
        report = audit(fleet, transactor.snapshot(fleet))
        if not report.clean:
            yield Fault.UNCLEAN, str(report.discrepancies[:3])
    if promise.in_doubt:
        return
    if FLEET in store.fleet_sizes():
        yield from _untold(store, promise)
        yield from _answered_otherwise(transactor, promise)
    elif promise.allocations:
        yield Fault.LOST, "the fleet is gone"


def _untold(store: SqliteStore, promise: Promises) -> Iterator[Finding]:
    """Compares each allocation with what its client was told last."""
    with store.transaction(FLEET) as transaction:
        rows = transaction.allocations(list(promise.allocations))
    for number, told in promise.allocations.items():
        row = rows.get(number)
        if row is None:
            if not promise.may_be_forgotten(told):
                yield Fault.UNTOLD, f"{told} is gone"
        elif not _is_as_told(row, told, promise.now_us):
            yield Fault.UNTOLD, f"{told} is {row}"


def _is_as_told(row: Allocation, told: Allocation, now_us: int) -> bool:
    """A start of the server may have lengthened the lease, and a sweep may have ended it, without a word to anybody."""
    if row.expire_time_us is not None and told.expire_time_us is not None and told.state is AllocationState.HELD:
        if row.expire_time_us < told.expire_time_us:
            return False
        told = told._replace(expire_time_us=row.expire_time_us, revision=row.revision)
        if row.state is AllocationState.EXPIRED and not told.is_held(now_us):
            told = told.ended(AllocationState.EXPIRED, row.revision, row.end_time_us or 0)
    return row == told


def _answered_otherwise(transactor: Transactor, promise: Promises) -> Iterator[Finding]:
    """Asks for everything again with the same tokens, and for one block more."""
    asked = promise.remembered_acquires()
    allocations = {request.token: promise.allocations[number] for number, request in asked.items()}
    late = [Acquire(FLEET, CALLER, token, "late", (Demand(blocks=1),)) for token in promise.remembered_cancellations()]
    new = Acquire(FLEET, CALLER, NEW_TOKEN, "new", (Demand(blocks=1),))
    requests = [*asked.values(), *late]
    *again, last = transactor.carry_out(FLEET, [*requests, new])
    for request, outcome in zip(requests, again, strict=True):
        told = allocations.get(request.token)
        if not _is_answered_again(outcome, told, promise.now_us):
            yield Fault.OTHERWISE, f"{request.token}: {outcome!r}, told {told}"
    if not isinstance(last, NoCapacity) and not (isinstance(last, Grant) and not last.replayed):
        yield Fault.OTHERWISE, f"a new request: {last!r}"
    report = audit(FLEET, transactor.snapshot(FLEET))
    if not report.clean:
        yield Fault.UNCLEAN, f"after new work: {report.discrepancies[:3]}"


def _is_answered_again(outcome: Outcome, told: Allocation | None, now_us: int) -> bool:
    """`told` is the allocation that the token was granted; None if it was cancelled."""
    if told is None:
        return isinstance(outcome, TokenCancelled)
    if isinstance(outcome, Grant):
        same = outcome.view.allocation
        same_grant = (same.allocation, same.granted) == (told.allocation, told.granted)
        return outcome.replayed and same_grant and told.state is AllocationState.HELD
    return isinstance(outcome, AllocationEnded) and not told.is_held(now_us)
