"""The table of saboteurs: for each proof of docs/explanation/evidence.md, on each deployment that it claims,
its subject made wrong, and who expects the proof to be red.

A proof that stays green then shows nothing. Some saboteurs are textual changes of the server, like the mutants; the
others are tests of the suite that put the fault in by themselves and expect red.
"""

from dataclasses import dataclass
from typing import Final

from tests.fault.mutant import Edit
from tests.fault.mutants import MUTANTS

SQLITE: Final = "SQLite"
POSTGRES: Final = "PostgreSQL"
TWO: Final = "PostgreSQL, two servers"
THREE: Final = "PostgreSQL, three servers"
SIMULATED: Final = "simulated"


@dataclass(frozen=True, slots=True)
class Saboteur:
    """One proof, on one deployment, whose subject is wrong."""

    proof: str
    """As docs/explanation/evidence.md names it."""
    deployment: str
    wrong: str
    """What is wrong about the subject."""
    test: str
    """With `edits`, the proof itself, which must be red; without, the test that expects the proof to be red."""
    edits: tuple[Edit, ...] = ()


_STALE: Final = "tests/history/test_recorded.py::test_a_server_whose_descriptions_are_a_little_old_is_caught_by_both"
_NOT_SYNCED: Final = "tests/power/test_power_loss.py::test_a_store_or_a_disk_that_does_not_wait_is_seen"
_POWER: Final = "tests/power/test_power_loss.py::test_what_was_acknowledged_is_there_after_every_cut"
_SIMULATION: Final = "tests/simulation/test_simulation.py::test_an_injected_fault_is_seen"
_MODEL: Final = "tests/property/test_model_check.py::test_a_planted_fault_is_found"
_LOSSY: Final = "tests/saboteurs/test_lossy_servers.py::test_the"
_JUDGE: Final = "tests/chaos/test_judge.py::test"
_WALL_CLOCK: Final = "tests/fault/test_time.py::test_a_wall_clock_that_is_set_between_two_starts_ends_no_lease_early"
_DATABASE_CLOCK: Final = (
    "tests/fault/test_time.py::test_a_databases_clock_that_is_set_ends_no_lease_early_and_keeps_none_for_ever"
)
_MUTANTS: Final = "tests/fault/test_mutants.py::test_the_same_tests_are_green_on_an_unchanged_copy"
_DUE: Final = "tests/race/test_leases.py::test_at_its_expire_time_a_leases_blocks_are_anothers_though_nobody_swept"

_NO_GRACE: Final = MUTANTS["ends leases early after a restart"].edits
_BLIND: Final = (
    Edit(
        "engine/fleet_time.py",
        "return _compared(seen, fresh, asked_us)",
        "return Reading(database_us + head.clock_offset_us)",
    ),
)
_LATE: Final = MUTANTS["sweeps a microsecond late"].edits
_NO_SYNC: Final = (Edit("store/sqlite/store.py", "PRAGMA synchronous = FULL", "PRAGMA synchronous = OFF"),)

SABOTEURS: Final = (
    Saboteur("history checking", SQLITE, "descriptions are half a second old", f"{_STALE}[sqlite-1]"),
    Saboteur("history checking", THREE, "descriptions are half a second old", f"{_STALE}[postgres-3]"),
    Saboteur("power loss", SQLITE, "commits are not synced", f"{_NOT_SYNCED}[OFF]"),
    Saboteur("power loss", SQLITE, "the server itself says synchronous = OFF", _POWER, _NO_SYNC),
    Saboteur(
        "simulation", SIMULATED, "a server does not catch up", f"{_SIMULATION}[memory does not catch up with other"
    ),
    Saboteur("model check", SQLITE, "a lease is longer than the fleet allows", f"{_MODEL}[a longer lease"),
    Saboteur("model check", POSTGRES, "a lease is longer than the fleet allows", f"{_MODEL}_on_postgres[one server]"),
    Saboteur("model check", THREE, "a lease is longer than the fleet allows", f"{_MODEL}_on_postgres[three servers]"),
    Saboteur("crashes", SQLITE, "some answers have no commit", f"{_LOSSY}_crashes_see_it"),
    Saboteur("named points", SQLITE, "some answers have no commit", f"{_LOSSY}_named_points_see_it[sqlite]"),
    Saboteur("named points", POSTGRES, "some answers have no commit", f"{_LOSSY}_named_points_see_it[postgres]"),
    Saboteur("clocks", SQLITE, "leases are not extended after a start", f"{_WALL_CLOCK}[3600]", _NO_GRACE),
    Saboteur("clocks", THREE, "steps of the database's clock are not seen", f"{_DATABASE_CLOCK}[3600]", _BLIND),
    Saboteur("fail-over", TWO, "some answers have no commit", f"{_LOSSY}_fail_overs_see_it"),
    Saboteur("chaos", SQLITE, "some grants are given back at once", f"{_JUDGE}_a_server_that_lies_is_caught[drop]"),
    Saboteur("chaos", TWO, "some grants are given back at once", f"{_JUDGE}_one_of_two_servers_that_lie_on_postgresql"),
    Saboteur("mutants", SQLITE, "a mutant that changes nothing", _MUTANTS),
    Saboteur("conformance", SQLITE, "a lease's end is found late", f"{_DUE}[sqlite]", _LATE),
    Saboteur("conformance", POSTGRES, "a lease's end is found late", f"{_DUE}[postgres]", _LATE),
    Saboteur("conformance", THREE, "a lease's end is found late", f"{_DUE}[postgres, three servers]", _LATE),
)
