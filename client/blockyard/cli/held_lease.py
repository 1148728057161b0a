"""The lease of `blockyard run`: an SDK lease that says, at each renewal, what it allows the command."""

import threading
from collections.abc import Callable

from blockyard._call import Operation
from blockyard.cli.command_times import CommandTimes, command_times
from blockyard.client import Client
from blockyard.lease import Lease
from blockyard.types import Grant


class HeldLease(Lease):
    """Enter it to acquire, leave it to release."""

    def __init__(self, client: Client, acquire: Operation[Grant], *, grace_s: float | None) -> None:
        """`grace_s` is the grace that the command is to have; None: as the lease allows."""
        super().__init__(client, acquire)
        self._grace_s = grace_s
        self._renewed: Callable[[CommandTimes], object] | None = None
        self._telling = threading.Lock()

    def on_renewed(self, callback: Callable[[CommandTimes], object]) -> None:
        """Calls this after each renewal, and once now; in the thread that renews."""
        # Under a lock, so that nobody hears of an older renewal after a newer one.
        with self._telling:
            self._renewed = callback
            callback(self.command_times())

    def command_times(self) -> CommandTimes:
        """What the latest renewal allows the command."""
        keeper = self._keeper
        return command_times(lost_at=keeper.lost_at, ends_at=keeper.ends_at, wanted_grace_s=self._grace_s)

    def _renew(self, timeout_s: float) -> None:
        super()._renew(timeout_s)
        with self._telling:
            if self._renewed is not None:
                self._renewed(self.command_times())
