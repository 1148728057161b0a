"""How long a writer waits for more calls before it begins a transaction: group commit with the callers of last time.

A call that comes alone never waits. Where many came together last time, they are likely to come again at once, because
each waits for its answer; waiting for them costs at most what their round has cost in CPU (docs/adr/0002). Pure: what
the time and the calls are, others say.
"""

from collections.abc import Callable


class Linger:
    """The rule. `begin` a wait, ask `is_enough` whenever a call comes, `time_out` when it took too long, then `end`."""

    def __init__(self, least_s: float, most_s: float, cpu_s: Callable[[], float]) -> None:
        """`cpu_s` is the CPU time that the process has used, in all its threads."""
        self._least_s = least_s
        self._most_s = most_s
        self._cpu_s = cpu_s
        self._last_batch_callers = 1
        """How many calls came together last time; 0 if some had to be left waiting."""
        self._wanted = 1
        """How many waiting calls end the present wait."""
        self._round_began_s = cpu_s()
        """When the present round began, in CPU time: a wait for requests, their batch, and the work around both."""
        self._idle = False
        """No call came in time: what the process does until one comes is not for this round."""

    def begin(self) -> float:
        """A new wait begins; how long it may take, in seconds."""
        self._wanted, self._idle = self._last_batch_callers, False
        last_round_s = self._cpu_s() - self._round_began_s
        self._round_began_s += last_round_s
        return min(self._most_s, max(self._least_s, last_round_s))

    def is_enough(self, calls_waiting: int) -> bool:
        """Whether so many waiting calls end the wait."""
        return calls_waiting >= self._wanted

    def time_out(self, *, idle: bool) -> None:
        """From now on any call is enough. `idle`: none has come so far."""
        self._wanted = 0
        self._idle = idle

    def end(self) -> None:
        """The wait is over."""
        if self._idle:
            self._round_began_s = self._cpu_s()

    def note_batch(self, callers: int, *, left_waiting: bool) -> None:
        """So many calls came together in this round; `left_waiting`: and more than a batch takes."""
        self._last_batch_callers = 0 if left_waiting else max(1, callers)
