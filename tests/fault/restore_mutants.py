"""Mutants that issue a name or a fencing token of the lost future again."""

from typing import Final

from tests.fault.mutant import Edit, Mutant

LIVES: Final = "tests/unit/test_restore_properties.py"
FILES: Final = "tests/store/test_restore.py"

PROOFS_OF_RESTORES: Final[dict[str, Mutant]] = {
    "forgets where new fleets begin after a restore": Mutant(
        "a fleet of the lost future begins above it when it is made again",
        (Edit("engine/restore.py", "first_revision=after, restoring=True", "restoring=True"),),
        (f"{LIVES}::test_a_fleet_of_the_lost_future_begins_above_it_when_it_is_made_again",),
    ),
    "forgets the revisions of the fleets that are there": Mutant(
        "no ghost renews or releases what is another's",
        (Edit("engine/restore.py", "        _skip(store, fleet, after, begun.epoch, times[fleet])", "        pass"),),
        (f"{LIVES}::test_no_ghost_renews_or_releases_anything",),
    ),
    "adds a constant to the backup": Mutant(
        "a backup that is restored twice goes on above the first time",
        (
            Edit(
                "domain/restore.py",
                "after = changes_between(NO_OLDER_US, now_us) + MARGIN\n    if after <= highest:",
                "after = 0\n    if after <= highest:",
            ),
        ),
        (f"{LIVES}::test_the_same_backup_restored_again_goes_on_above_what_came_after_the_first_time",),
    ),
    "starts on a file that is half restored": Mutant(
        "a restore that was killed keeps servers out",
        (Edit("engine/restore.py", "first_revision=after, restoring=True)", "first_revision=after)"),),
        (f"{LIVES}::test_a_restore_that_was_killed_half_way_keeps_servers_out_until_it_has_ended",),
    ),
    "gives the old file no second name": Mutant(
        "no server starts on a file whose log was moved away",
        (Edit("store/sqlite/restore_file.py", "        os.link(data, kept)\n", ""),),
        (FILES,),
    ),
    "leaves the log of the old file": Mutant(
        "no stale log is replayed into a restored file",
        (Edit("store/sqlite/restore_file.py", "    for suffix in SUFFIXES[1:]:\n", "    for suffix in ():\n"),),
        (FILES,),
    ),
}
