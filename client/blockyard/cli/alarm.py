"""Waits for input or for a moment of the clock that leases are counted on, whichever comes first."""

import select
from collections.abc import Iterable
from math import inf

from blockyard._clock import lease_now
from blockyard._leasing import LONGEST_SLEEP_S
from blockyard.cli.linux_calls import BootTimer


class Alarm:
    """Wakes up in time also if the machine was suspended meanwhile."""

    def __init__(self, inputs: Iterable[int]) -> None:
        """`inputs` are the file descriptors that end the wait when they can be read."""
        self._timer = BootTimer()
        self._poll = select.poll()
        for descriptor in inputs:
            self._poll.register(descriptor, select.POLLIN)
        if self._timer.fd is not None:
            self._poll.register(self._timer.fd, select.POLLIN)

    def wait(self, until: float) -> None:
        """Returns at `until`, or before: when there is input, or after `LONGEST_SLEEP_S`. The caller looks again."""
        if until != inf:
            self._timer.arm(until)
        left_s = min(max(until - lease_now(), 0), LONGEST_SLEEP_S)
        # Rounded up: a wait that ends a little early would be followed by many of no length.
        self._poll.poll(int(left_s * 1000) + 1)
