"""Where revisions go on after a restore, so that no name and no fencing token is issued twice. Pure.

An allocation's name and its fencing token are the fleet's revision at its grant. A backup knows nothing of what came
after it: the lost future. So a restored fleet goes on above every revision that the lost future can have reached. A
backup can be restored more than once, and each time the future since is lost. So the step has a part that grows with
the time since the backup: what was reached before an earlier restore is below it, too.
"""

from typing import Final

DEFAULT_BUMP: Final = 1_000_000_000
"""What is added besides the part that grows with time. It covers a clock that is behind by almost three hours."""
CHANGES_PER_S: Final = 100_000
"""A fleet makes fewer changes in a second: five times what was ever measured."""
HIGHEST_REVISION: Final = 2**53
"""JavaScript counts no further exactly, and the column has 63 bits."""
_SECOND_US: Final = 1_000_000


class BumpTooSmall(Exception):
    """The lost future may have reached further. The message is a sentence."""


def changes_since(latest_us: int, now_us: int) -> int:
    """More changes than a fleet can have made since then."""
    return max(0, now_us - latest_us) * CHANGES_PER_S // _SECOND_US


def check_bump(fleet: str, bump: int, latest_us: int, now_us: int) -> None:
    """Refuses a bump that does not cover the time since the fleet's latest event. Raises BumpTooSmall."""
    least = max(1, changes_since(latest_us, now_us))
    if bump < least:
        raise BumpTooSmall(
            f"A bump of {bump} is too small for fleet {fleet}: since its latest event it may have made {least} "
            f"changes. Give --bump {least} or more, or leave it out."
        )


def revision_after(revision: int, seen: int, *, bump: int, latest_us: int, now_us: int) -> int:
    """Where the fleet goes on: the revision before that of its RESTORED event.

    `revision` is the backup's, `seen` the highest that is known from elsewhere, `latest_us` the time of the latest
    event in the backup. Raises BumpTooSmall if the numbers are used up.
    """
    after = max(revision, seen) + bump + changes_since(latest_us, now_us)
    if after >= HIGHEST_REVISION:
        raise BumpTooSmall(f"A bump of {bump} leads to revision {after}, above what all clients can count to (2^53).")
    return after
