"""What was acknowledged survives the power: some hundreds of images here, ten thousand with `make power`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import pytest

from blockyard_server.domain.allocation import AllocationState
from blockyard_server.engine.store_protocol import StoreStopped
from tests.power.campaign import Plan, images, run_campaign
from tests.power.connection import ApswConnection
from tests.power.disk import Create, Delete, SyncFolder, Truncate, Write
from tests.power.life import DATA, Life, NeverStarts, Settings, live
from tests.power.recorder import Lies, Recorder
from tests.power.recovery import Fault, recover
from tests.power.store import Pragmas, RecordedStore

LOG = f"{DATA}-wal"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return live(tmp_path_factory.mktemp("life"), {}, None, Random("a life"), Settings())


def test_what_was_acknowledged_is_there_after_every_cut() -> None:
    tally = run_campaign(1, Plan(lives=2, stride=30))

    assert not tally.reports
    assert tally.violations == 0
    assert tally.images >= 200
    assert 0 < tally.ahead < tally.images


@pytest.mark.parametrize(
    ("settings", "harmless"),
    [
        pytest.param(Settings(pragmas=Pragmas(synchronous="NORMAL")), [Fault.DAMAGED, Fault.STRANGE], id="NORMAL"),
        pytest.param(Settings(pragmas=Pragmas(synchronous="OFF")), [], id="OFF"),
        pytest.param(Settings(lies=Lies.FILES), [], id="files are not synced"),
        pytest.param(Settings(lies=Lies.FOLDERS), [], id="folders are not synced"),
    ],
)
@pytest.mark.slow
def test_a_store_or_a_disk_that_does_not_wait_is_seen(settings: Settings, harmless: Sequence[Fault]) -> None:
    tally = run_campaign(1, Plan(lives=1, stride=50, settings=settings))

    assert tally.violations > tally.images // 10
    assert tally.faults[Fault.LOST]
    assert tally.reports
    assert not any(tally.faults[fault] for fault in harmless)


AILING = Settings(full=0.004, failing_syncs=0.1)


@pytest.mark.slow
def test_a_disk_that_is_full_or_fails_to_sync_loses_nothing_that_was_acknowledged() -> None:
    tally = run_campaign(2, Plan(lives=2, stride=30, settings=AILING))

    assert not tally.reports
    assert tally.images >= 200
    assert tally.struck["full"] >= 5
    assert tally.struck["sync"] >= 5
    assert tally.struck["killed"] >= 2
    assert tally.struck["stopped"] >= 2
    assert all(tally.struck[what] for what in ("read", "opened", "copied the log", "backed up")), tally.struck


def goes_on_after_a_failed_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection takes the log as it is, as before ADR 14."""

    def go_on(store: RecordedStore, _path: Path, _failure: BaseException) -> StoreStopped:
        if store._db is not None and store._db.in_transaction:
            store._db.execute("ROLLBACK")
        vanish(store)
        return StoreStopped("it has not")

    monkeypatch.setattr(RecordedStore, "_stop_after_failed_sync", go_on)


def starts_with_the_log_of_a_failed_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedStore, "_empty_log", lambda store: store._file.mark_sync(failed=False))


def copies_a_log_that_the_disk_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedStore, "_forget_cached_log", lambda _: None)


def vanish(store: RecordedStore) -> None:
    db, store._db = store._db, None
    if db is not None:
        cast("ApswConnection", db).vanish()


OFTEN_FAILING = Plan(
    lives=1, stride=5, survivals=["only what was synced"], settings=Settings(batches=25, full=0.004, failing_syncs=0.3)
)
SABOTEURS = [
    goes_on_after_a_failed_sync,
    starts_with_the_log_of_a_failed_sync,
    copies_a_log_that_the_disk_has_not,
]


@pytest.mark.slow
def test_a_disk_that_often_fails_to_sync_loses_nothing_that_was_acknowledged() -> None:
    tally = run_campaign(2, OFTEN_FAILING)

    assert not tally.reports
    assert tally.struck["sync"] >= 5
    assert tally.struck["killed"] + tally.struck["stopped"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda saboteur: saboteur.__name__)
def test_a_store_that_relies_on_what_a_failed_sync_has_left_is_seen(
    monkeypatch: pytest.MonkeyPatch, saboteur: Callable[[pytest.MonkeyPatch], None]
) -> None:
    saboteur(monkeypatch)

    try:
        tally = run_campaign(2, OFTEN_FAILING)
    except NeverStarts:
        return
    assert tally.faults[Fault.LOST] or tally.faults[Fault.DAMAGED] or tally.faults[Fault.STRANGE]


def test_an_answer_before_the_disk_has_it_is_seen(life: Life, tmp_path: Path) -> None:
    batch = next(number for number in range(5, 40) if life.promises[number].digest != life.promises[number - 1].digest)
    told = life.promises[batch]
    cut = next(image for image in images(life, "", Plan()) if image.cut == told.steps - 1)
    (tmp_path / "in time").mkdir()
    (tmp_path / "too early").mkdir()

    assert not recover(tmp_path / "in time", cut.files, life.promises, batch - 1).faults
    found = recover(tmp_path / "too early", cut.files, life.promises, batch)

    assert found.state == batch - 1
    assert Fault.LOST in {fault for fault, _ in found.faults}


def test_an_answer_that_told_something_else_is_seen(life: Life, tmp_path: Path) -> None:
    *_, last = images(life, "", Plan(survivals=["only what was synced"]))
    end = life.promises[-1]
    number = next(number for number, told in end.allocations.items() if told.is_held(end.now_us))
    otherwise = {number: end.allocations[number]._replace(holder="somebody else")}
    promises = [*life.promises[:-1], replace(end, allocations={**end.allocations, **otherwise})]

    found = recover(tmp_path, last.files, promises, len(promises) - 1)

    assert {fault for fault, _ in found.faults} == {Fault.UNTOLD}


def test_a_life_does_all_that_a_disk_must_bear(life: Life) -> None:
    created = {step.file: step.name for step in life.steps if isinstance(step, Create)}

    def on(kind: type[Write] | type[Truncate]) -> set[str]:
        return {created[step.file] for step in life.steps if isinstance(step, kind)}

    assert on(Write) == {DATA, LOG, f"{DATA}-journal"}
    assert on(Truncate) >= {DATA, LOG}
    assert LOG in {step.name for step in life.steps if isinstance(step, Delete)}
    assert [step for step in life.steps if isinstance(step, SyncFolder)]
    begun = [step for step in life.steps if isinstance(step, Write) and step.offset == 0 and created[step.file] == LOG]
    assert len(begun) >= 5, "the log began anew, after it was copied into the database"


def test_a_life_makes_every_kind_of_promise(life: Life) -> None:
    end = life.promises[-1]
    told = end.allocations.values()

    assert {a.state for a in told} >= {AllocationState.HELD, AllocationState.RELEASED}
    assert any(a.placements != a.granted for a in told), "a partial release"
    leased = [(a.grant_time_us + a.ttl_us, a.expire_time_us) for a in told if a.ttl_us and a.expire_time_us]
    assert any(expire_time_us > at_first_us for at_first_us, expire_time_us in leased), "a renewal"
    assert end.cancelled
    assert len(end.remembered_acquires()) < len(end.acquires), "some are forgotten"


def test_the_same_seed_makes_the_same_images(life: Life, tmp_path: Path) -> None:
    again = live(tmp_path, {}, None, Random("a life"), Settings())

    assert again.steps == life.steps
    assert again.promises == life.promises
    few = Plan(stride=100)
    assert list(images(again, "name", few)) == list(images(life, "name", few))


def test_the_store_is_as_durable_as_it_makes_itself(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, {}, Random(0))
    with recorder.installed():
        store = RecordedStore(tmp_path / DATA, recorder, Pragmas())
        store.open()
        db = store._connected()
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")]
        store._close_writer()

    assert found == ["wal", 2, 1]
