"""Servers of different releases: who serves which fleet, and when a fleet's records are raised to a newer format."""

from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any, Final

import pytest

from blockyard_server.domain.answers import AllocationFilter, EventFilter, Renewal
from blockyard_server.domain.errors import FleetFormatTooOld
from blockyard_server.domain.events import KINDS
from blockyard_server.domain.formats import NEWEST, OLDEST, Formats, format_to_raise_to
from blockyard_server.domain.journal import Watch
from blockyard_server.domain.requests import Renew
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.failures import FleetFormatTooNew
from blockyard_server.engine.formats import LIVE_US, FormatKeeper, FormatSettings
from blockyard_server.engine.store_protocol import ServerRow
from blockyard_server.engine.sweeper import SweeperSettings
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writer import WriterLimits
from blockyard_server.engine.writers import Writers
from tests.unit.engine_stories import acquire, create, filled_store
from tests.unit.hooked_store import HookedStore

TODAY: Final = Formats(newest=1, since=MappingProxyType(dict.fromkeys(KINDS, 1)))
TOMORROW: Final = Formats(newest=2, since=MappingProxyType(dict.fromkeys(KINDS, 1) | {"RENEWED": 2}))
"""A release in which RENEWED is a new kind of event."""


def engine_of(formats: Formats, store: HookedStore) -> Engine:
    """A server of a release; it does nothing in the background unless it is asked to."""
    settings = EngineSettings(sweeper=SweeperSettings(interval_s=3600.0), restart_grace_s=0.0)
    return Engine(store, ManualClock(), settings, formats=formats)


def at_format(store: HookedStore, fleet_format: int, fleet: str = "gpu") -> None:
    """As if a newer server had raised the fleet."""
    with store.transaction(fleet) as tx:
        tx.raise_format(fleet_format)


def test_every_kind_of_event_has_the_format_that_it_came_with() -> None:
    assert OLDEST == 1 <= NEWEST
    since = Formats().since
    assert since.keys() == set(KINDS)
    assert {1} <= set(since.values()) <= set(range(OLDEST, NEWEST + 1))


def test_a_new_kind_of_event_is_written_only_to_fleets_of_its_format() -> None:
    store = filled_store()
    transactor = Transactor(store, ManualClock(), formats=TOMORROW)
    (granted,) = transactor.carry_out("gpu", [acquire("t", ttl_us=1_000_000)])
    renew = Renew("gpu", granted.view.allocation.allocation, ttl_us=60_000_000)  # type: ignore[union-attr]  # it is

    (too_early,) = transactor.carry_out("gpu", [renew])
    transactor.raise_format("gpu", 2)
    (renewed,) = transactor.carry_out("gpu", [renew])

    assert isinstance(too_early, FleetFormatTooOld)
    assert too_early.metadata == {"fleet": "fleets/gpu", "format": "1", "needed": "2"}
    assert isinstance(renewed, Renewal)
    assert store.rows["gpu"].format == 2


def test_what_needs_no_new_kind_is_written_to_a_fleet_of_any_known_format() -> None:
    store = filled_store()
    transactor = Transactor(store, ManualClock(), formats=TOMORROW)

    for fleet_format in (1, 2):
        transactor.raise_format("gpu", fleet_format)
        (outcome,) = transactor.carry_out("gpu", [acquire(f"t{fleet_format}")])
        assert not isinstance(outcome, Exception)


def _watch(engine: Engine) -> Awaitable[object]:
    return anext(engine.watch(Watch("gpu", from_revision=1)))


CALLS: Final[dict[str, Callable[[Engine], Awaitable[object]]]] = {
    "acquire": lambda engine: engine.submit(acquire("t")),
    "describe": lambda engine: engine.describe("gpu", full=True, after=0, limit=10),
    "get_fleet": lambda engine: engine.get_fleet("gpu"),
    "list_fleets": lambda engine: engine.list_fleets(after="", limit=10),
    "list_instances": lambda engine: engine.list_instances("gpu", after=0, limit=10),
    "list_allocations": lambda engine: engine.list_allocations("gpu", AllocationFilter(), after=0, limit=10),
    "list_events": lambda engine: engine.list_events("gpu", EventFilter(), after=0, limit=10),
    "watch": _watch,
    "verify": lambda engine: engine.verify("gpu"),
    "repair": lambda engine: engine.repair("gpu", apply=True),
}


@pytest.mark.parametrize("when", ["before the start", "while it serves"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_fleet_of_a_newer_format_is_left_to_newer_servers_and_never_halted(
    call: Callable[[Engine], Awaitable[object]], when: str
) -> None:
    store = filled_store(8, "gpu", "cpu")
    engine = engine_of(TODAY, store)
    if when == "before the start":
        at_format(store, 2)
    await engine.start()
    if when == "while it serves":
        await engine.submit(acquire("before"))
        at_format(store, 2)
    before = store.rows["gpu"].revision

    with pytest.raises(FleetFormatTooNew) as refused:
        await call(engine)
    await engine._sweeper.round()
    await engine._auditor.round()

    assert refused.value.metadata == {"fleet": "fleets/gpu", "format": "2", "newest": "1"}
    assert refused.value.retry_after_s
    assert (store.rows["gpu"].revision, store.rows["gpu"].halted) == (before, False)
    assert not engine.counts.halts
    assert await engine.submit(acquire("other fleet", fleet="cpu"))
    await engine.stop()


async def test_a_fleet_that_was_created_by_a_server_beside_older_ones_is_of_their_format() -> None:
    store = filled_store()
    engine = engine_of(TOMORROW, store)
    await engine.start()
    await engine.submit(create("alone"))
    store.servers["older"] = ServerRow("older", "0.1", 1)
    await engine._keeper.round()
    await engine.submit(create("beside"))

    assert {fleet: rows.format for fleet, rows in store.rows.items()} == {"gpu": 2, "alone": 2, "beside": 1}
    await engine.stop()
    assert list(store.servers) == ["older"], "a server that stops says so"


@pytest.mark.parametrize(
    ("other", "reached"),
    [
        (ServerRow("other", "0.1", 1), 1),
        (ServerRow("other", "0.1", 1, silent_us=LIVE_US), 1),
        (ServerRow("other", "0.1", 1, silent_us=LIVE_US + 1), 2),
        (ServerRow("other", "0.3", 3), 2),
        (ServerRow("other", "0.2", 2, holds_format=True), 1),
        (ServerRow("other", "0.2", 2, holds_format=True, silent_us=LIVE_US + 1), 2),
    ],
)
async def test_a_fleet_is_raised_once_every_live_server_knows_the_format_and_none_holds_it(
    other: ServerRow, reached: int
) -> None:
    store = filled_store()
    store.servers["other"] = other
    keeper, writers = keeper_over(store)

    await keeper.round()

    assert store.rows["gpu"].format == reached
    await writers.stop()


async def test_hold_format_keeps_the_format() -> None:
    store = filled_store()
    keeper, writers = keeper_over(store, hold=True)

    await keeper.round()

    assert store.rows["gpu"].format == 1
    assert next(iter(store.servers.values())).holds_format
    await writers.stop()


async def test_a_server_that_can_serve_no_fleet_says_why() -> None:
    store = filled_store(8, "gpu", "cpu")
    keeper, writers = keeper_over(store, TODAY)
    told = []

    for fleet in ("gpu", "cpu"):
        at_format(store, 2, fleet)
        await keeper.round()
        told.append(keeper.why_it_serves_no_fleet)

    assert told[0] is None
    assert told[1] is not None
    assert "format 2" in told[1]
    await writers.stop()


def test_without_any_server_the_oldest_format_is_right() -> None:
    assert format_to_raise_to({}, held=False) == OLDEST


def keeper_over(store: HookedStore, formats: Formats = TOMORROW, **settings: Any) -> tuple[FormatKeeper, Writers]:
    """What raises fleets, on a server that does nothing else."""
    transactor = Transactor(store, ManualClock(), formats=formats)
    writers = Writers(transactor, WriterLimits(), 1)
    writers.start()
    return FormatKeeper(store, writers, transactor, FormatSettings("0.2", **settings), formats), writers
