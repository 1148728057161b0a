"""Where revisions go on after a restore, so that no name and no fencing token is issued twice. Pure.

An allocation's name and its fencing token are the fleet's revision at its grant. A backup knows nothing of what came
after it: the lost future. A backup may be restored again, and an older one after a newer one. So it is not enough to
add the same number to what a backup says. A restore goes on from a number that depends on the time alone. It grows
faster than any fleet can, so everything that was issued before, whatever was restored in between, is below it.
"""

from typing import Final

MARGIN: Final = 1_000_000_000
"""For a clock that is behind, by almost three hours, and the least step of a database that was never restored."""
CHANGES_PER_S: Final = 100_000
"""A fleet makes fewer changes in a second: five times what was ever measured."""
NO_OLDER_US: Final = 1_767_225_600_000_000
"""2026-01-01. No database is older."""
HIGHEST_REVISION: Final = 2**53
"""JavaScript counts no further exactly. It is reached in the year 4880."""
_SECOND_US: Final = 1_000_000


class BumpTooSmall(Exception):
    """The lost future may have reached further. The message is a sentence."""


def changes_between(from_us: int, to_us: int) -> int:
    """More changes than a fleet can have made in that time."""
    return max(0, to_us - from_us) * CHANGES_PER_S // _SECOND_US


def check_bump(fleet: str, bump: int, latest_us: int, now_us: int) -> None:
    """Refuses a bump that does not cover the time since the fleet's latest event. Raises BumpTooSmall."""
    least = max(1, changes_between(latest_us, now_us))
    if bump < least:
        raise BumpTooSmall(
            f"A bump of {bump} is too small for fleet {fleet}: since its latest event it may have made {least} "
            f"changes. Give --bump {least} or more, or leave it out."
        )


def revision_after(highest: int, now_us: int, bump: int | None) -> int:
    """Where every fleet goes on, and new ones begin: the revision before that of the RESTORED event.

    `highest` is the highest revision that is known of any fleet. Raises BumpTooSmall if the numbers are used up.
    """
    after = changes_between(NO_OLDER_US, now_us) + MARGIN
    if after <= highest:
        after = highest + MARGIN  # the clock is behind
    if bump is not None:
        after = max(after, highest + bump)
    if after >= HIGHEST_REVISION:
        raise BumpTooSmall(f"This leads to revision {after}, above what all clients can count to (2^53).")
    return after
