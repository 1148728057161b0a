"""Real servers under faults: what their clients recorded is linearizable, and a lie put into the record is caught.

`make history` does the same with a million calls.
"""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.history import stale_server
from tests.history.black_box import check_black_box
from tests.history.files import read_history
from tests.history.injected import INJECTIONS
from tests.history.record import History
from tests.history.stage import Recorded, Setup, record
from tests.history.witness import check_with_witness


def say(line: str) -> None:
    """Pytest shows it with a failure."""
    sys.stdout.write(f"{line}\n")


def recorded_in(folder: Path, **setup: object) -> Recorded:
    """A short recording, in which all that was asked for has taken place."""
    quick = Setup(
        **{  # type: ignore[arg-type]  # the fields are checked by their use
            "operations": 3000,
            "fleets": 1,
            "calm_s": (0.1, 0.5),
            "database_calm_s": (0.5, 2.0),
            "kill_every_s": (0.4, 1.0),
            **setup,
        }
    )
    recorded = asyncio.run(record(folder, quick, say))
    assert recorded.lacks(quick) == []
    return recorded


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded_in(tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def history(recorded: Recorded) -> History:
    return read_history(recorded.folders[0])


@pytest.mark.timeout(300)
def test_what_clients_saw_through_faults_and_kills_is_linearizable(recorded: Recorded, history: History) -> None:
    witness, black_box = check_with_witness(history), check_black_box(history)

    assert witness.violations == []
    assert black_box.violations == []
    assert recorded.unknown == witness.unknown > 0
    assert witness.ops == black_box.ops >= 3000
    assert black_box.windows > black_box.windows_skipped
    assert black_box.unsettled == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_lie_put_into_a_real_history_is_caught_by_both(history: History) -> None:
    for injection in INJECTIONS:
        wrong = injection(history)

        assert not check_with_witness(wrong).linearizable, injection.__name__
        assert not check_black_box(wrong).linearizable, injection.__name__


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize(("database", "servers"), [("sqlite", 1), ("postgres", 3)])
def test_a_server_whose_descriptions_are_a_little_old_is_caught_by_both(
    tmp_path: Path, database: str, servers: int
) -> None:
    program = (sys.executable, str(Path(stale_server.__file__)))
    deployment = {"database": database, "servers": servers}
    recorded = recorded_in(
        tmp_path, operations=2400, clients=16, instances=4, faults=False, program=program, **deployment
    )
    history = read_history(recorded.folders[0])

    assert any("contradicts real time" in each for each in check_with_witness(history).violations)
    assert not check_black_box(history).linearizable


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_clients_saw_of_three_servers_on_one_database_is_linearizable(tmp_path: Path) -> None:
    recorded = recorded_in(tmp_path, operations=1000, servers=3, database="postgres", database_calm_s=(0.1, 0.5))
    history = read_history(recorded.folders[0])

    assert check_with_witness(history).violations == []
    assert check_black_box(history).violations == []


def test_a_recording_says_what_it_lacks() -> None:
    asked = Setup(operations=1, servers=3, database="postgres")

    assert Recorded().lacks(asked) == [
        "3 servers (0 were there)",
        "a kill",
        "a fault of a client's network",
        "a fault of a database's network",
    ]
