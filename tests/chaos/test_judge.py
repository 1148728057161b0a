"""The judge is not blind: what must never be is made to happen, and is a violation each time."""

import asyncio
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from blockyard import Event, EventKind
from tests.chaos import lying_server
from tests.chaos.disturbances import Disturbance, Skipped, Violation, chosen, steps_of
from tests.chaos.files import MovedFiles, watch_it_notice
from tests.chaos.judge import check_history, compare_copy
from tests.chaos.outsiders import copy_data
from tests.chaos.restarts import RESTARTS
from tests.chaos.round import Outcome, Setup, run_round
from tests.chaos.run import DISTURBANCES, Run
from tests.chaos.second_servers import must_be_refused
from tests.chaos.stage import Stage
from tests.chaos.test_chaos import PAUSE_S, say
from tests.harness.postgres import Postgres
from tests.history.files import read_history
from tests.history.injected import INJECTIONS

WORK = 600
"""Changes that are acknowledged before a lie must have been told."""


def outcome_of(
    folder: Path, *steps: Disturbance, program: tuple[str, ...] = (), postgres: Postgres | None = None
) -> Outcome:
    setup = Setup("saboteur", postgres, 1 if postgres is None else 2, program=program, pause_s=PAUSE_S)
    return asyncio.run(run_round(folder / "round", 0, steps, setup, say))


def the_violation(folder: Path, *steps: Disturbance) -> str:
    [violation] = outcome_of(folder, *steps).violations
    return violation


async def work(stage: Stage, _: Random) -> None:
    """Nothing happens but the clients' work."""
    while stage.load.acknowledged < WORK:
        await stage.until_answered()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lie", ["drop", pytest.param("double", marks=pytest.mark.slow)])
def test_a_server_that_lies_is_caught(tmp_path: Path, lie: str) -> None:
    """What it acknowledges is dropped, or a block is granted twice: a client is told so, or the judge sees it."""
    program = (sys.executable, lying_server.__file__, lie)

    assert outcome_of(tmp_path, Disturbance("work", "saboteurs", 1, work), program=program).violations


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_of_two_servers_that_lie_on_postgresql_is_caught(tmp_path: Path, postgres: Postgres) -> None:
    program = (sys.executable, lying_server.__file__, "drop")

    assert outcome_of(
        tmp_path, Disturbance("work", "saboteurs", 1, work), program=program, postgres=postgres
    ).violations


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lie_in_the_record_is_caught(tmp_path: Path) -> None:
    """The record of a round in which all was well, with one answer changed: a double grant, a lost release, …"""
    assert outcome_of(tmp_path, Disturbance("work", "saboteurs", 1, work)).violations == []
    history = read_history(tmp_path / "round" / "fleet-0")

    assert check_history("fleet-0", history) == []
    for injection in INJECTIONS:
        said = check_history("fleet-0", injection(history))
        assert any("by revision" in each for each in said), injection.__name__
        assert any("from outside" in each for each in said), injection.__name__


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_older_copy_that_is_put_in_place_between_two_starts_is_caught(tmp_path: Path) -> None:
    async def restore(stage: Stage, _: Random) -> None:
        copy = await copy_data(stage, "VACUUM INTO")
        await stage.until_answered()
        [server] = stage.servers
        await stage.stop(server, kill=False)
        stage.file.write_bytes(copy.path.read_bytes())

    assert outcome_of(tmp_path, Disturbance("restore", "saboteurs", 1, restore)).violations


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_server_that_gets_in_is_caught(tmp_path: Path) -> None:
    """It has a copy of the data, which nothing can keep it from."""

    async def start_on_a_copy(stage: Stage, _: Random) -> None:
        copy = await copy_data(stage, "VACUUM INTO")
        await must_be_refused(stage, copy.path, "by a copy")

    violation = the_violation(tmp_path, Disturbance("second server", "saboteurs", 1, start_on_a_copy))

    assert "a second server got in by a copy, and granted" in violation


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_goes_on_after_its_file_was_removed_is_caught(tmp_path: Path) -> None:
    """Nothing is done to the file, so that there is nothing that the server could notice."""

    async def remove_nothing(stage: Stage, dice: Random) -> None:
        await watch_it_notice(stage, dice, MovedFiles(stage, ()), lambda: None, "removed", bound_s=2.0)

    violation = the_violation(tmp_path, Disturbance("removed", "saboteurs", 1, remove_nothing))

    assert "health says SERVING" in violation
    assert "and 0 changes have been acknowledged" not in violation


EVENTS = [
    Event(
        revision=revision,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        kind=EventKind.GRANTED,
        allocation=f"fleets/gpu/allocations/{revision}",
        instance=None,
        holder="job",
        placements=(),
        expire_time=None,
        idempotency_token=f"token-{revision}",
        ended=False,
        fleet=None,
        instance_after=None,
    )
    for revision in range(1, 6)
]


def test_a_copy_is_a_beginning_of_the_journal_and_what_a_start_adds() -> None:
    own = replace(EVENTS[3], kind=EventKind.LEASES_EXTENDED)

    compare_copy([*EVENTS[:3], own], EVENTS, 3, "the copy")
    with pytest.raises(Violation, match="only the first 3 of 4 acknowledged"):
        compare_copy([*EVENTS[:3], own], EVENTS, 4, "the copy")
    with pytest.raises(Violation, match="nobody was told of"):
        compare_copy([*EVENTS[:3], replace(EVENTS[3], holder="another")], EVENTS, 3, "the copy")


def test_the_order_follows_from_the_seed_and_leaves_nothing_out() -> None:
    deck = DISTURBANCES["sqlite"]
    weights = sum(each.weight for each in deck)

    assert steps_of(deck, "a", 3, 12) == steps_of(deck, "a", 3, 12) != steps_of(deck, "b", 3, 12)
    assert steps_of(deck, "a", 0, 24)[12:] == steps_of(deck, "a", 1, 12)
    assert set(steps_of(deck, "a", 0, weights)) == set(deck)
    assert [each.name for each in chosen(deck, ["full disk"])] == ["full disk"]
    with pytest.raises(ValueError, match="'fire' is neither a disturbance nor a kind"):
        chosen(deck, ["fire"])


def test_a_run_is_not_valid_in_which_something_never_happened() -> None:
    run = Run(RESTARTS, "")
    outcome = Outcome(skipped={RESTARTS[0].name: "this machine has none"})
    outcome.happened.update(each.name for each in RESTARTS[2:])
    run.add(0, outcome)

    assert run.missing == [RESTARTS[1].name]
    assert not run.tell()
    run.add(1, Outcome(happened=outcome.happened + type(outcome.happened)([RESTARTS[1].name])))
    assert run.tell()


@pytest.mark.timeout(300)
def test_what_a_machine_does_not_allow_is_skipped_with_its_reason(tmp_path: Path) -> None:
    async def skip(_stage: Stage, _: Random) -> None:
        raise Skipped("only on a Tuesday")

    outcome = outcome_of(tmp_path, Disturbance("holiday", "days", 1, skip))

    assert outcome.violations == []
    assert outcome.skipped == {"holiday": "only on a Tuesday"}
    assert not outcome.happened
