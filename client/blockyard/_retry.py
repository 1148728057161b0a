"""When a call is tried again, as values: no clock, no randomness and no network in here.

Only UNAVAILABLE is retried, with the same request and so with the same token, inside the caller's total time; and
UNAUTHENTICATED once, when there are other credentials than those that were refused. A change that got no answer in time
is asked for again, because only the server knows what became of it.

A pause is as long as the server asks for, with one exception: a server that is stopping asks for a second, the time
until it is back, and where there are others, the call goes to one of them after the policy's own short pause. What
OVERLOADED and STORE_UNAVAILABLE ask for holds anyway: load that moves on at once would overload the next server, and
the database is the same.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from blockyard._call import LOOK, Call
from blockyard.errors import (
    BlockyardError,
    CallFailed,
    DeadlineExceeded,
    OutcomeUnknown,
    ServerFault,
    ShuttingDown,
    Unavailable,
)

SHORTEST_ATTEMPT_S: Final = 0.25
"""No attempt is cut shorter than this in favour of another one, and one that the caller's time cut shorter says nothing
of the server: the failure before it is raised."""

LONGEST_CHANGE_TIMEOUT_S: Final = 300.0
"""A change is asked for again for no longer than this, whatever the caller's timeout is: a server remembers a token for
at least ten minutes after its allocation has ended, and must not meet it as a new one."""

IN_DOUBT: Final = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"})
"""Statuses that a transport makes up when no answer came. A fault that the server itself reports is an answer."""


_log = logging.getLogger("blockyard.retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait before a call is tried again: exponentially longer, spread at random."""

    initial_s: float = 0.05
    """Before the first retry, at most."""
    multiplier: float = 2.0
    """How much longer each next one may be."""
    max_s: float = 2.0
    """The longest, unless the server asks for more."""

    def pause_s(self, retry: int, jitter: float) -> float:
        """The wait before retry number `retry` (from 0); `jitter` is a random number in [0, 1).

        Between half of the bound and the bound: clients that failed together do not come back together.
        """
        bound = min(self.max_s, self.initial_s * self.multiplier ** min(retry, 64))
        return bound * (1 + jitter) / 2


DEFAULT_RETRY: Final = RetryPolicy()
"""How the clients wait unless told otherwise."""


def total_s(call: Call[Any], timeout_s: float) -> float:
    """How long a call may take in all, retries included."""
    return timeout_s if call.if_unknown is None else min(timeout_s, LONGEST_CHANGE_TIMEOUT_S)


class Attempts:
    """The attempts of one call: how long each may take, and what follows when it fails."""

    def __init__(self, call: Call[Any], policy: RetryPolicy, *, deadline: float, several: bool = False) -> None:
        """`deadline` is the end of the caller's total time, on the same clock as every `now`, in seconds.

        `several` is whether there may be other servers to turn to.
        """
        self._call = call
        self._policy = policy
        self._deadline = deadline
        self._several = several
        self._lost = 0
        self._attempt_s = 0.0
        self._failure_before: CallFailed | None = None
        self._renewed = False

    def timeout_s(self, now: float) -> float:
        """How long the next attempt may take: for a change half of the time that is left, so as to ask again."""
        left = max(0.0, self._deadline - now)
        self._attempt_s = left if self._call.if_unknown is None else max(left / 2, min(left, SHORTEST_ATTEMPT_S))
        return self._attempt_s

    def pause_s(self, failure: CallFailed, now: float, jitter: float, *, renewed: bool = False) -> float:
        """How long to wait before the next attempt, after one that ended with `failure`.

        `renewed` is whether there are other credentials by now. A call that was refused for its credentials is made
        again with them, once.

        Raises:
            CallFailed: The failure itself: it is an answer, or no time is left and the call changes nothing.
            OutcomeUnknown: No time is left, and the call may have made its change.
        """
        if failure.status == "UNAUTHENTICATED" and renewed and not self._renewed and now < self._deadline:
            self._renewed = True
            return 0.0
        if failure.status not in IN_DOUBT or isinstance(failure, ServerFault):
            raise self._refusal(failure)
        if isinstance(failure, DeadlineExceeded) and self._attempt_s < SHORTEST_ATTEMPT_S and self._failure_before:
            failure = self._failure_before
        self._failure_before = failure
        pause = None
        if isinstance(failure, Unavailable):
            pause = max(self._asked_s(failure), self._policy.pause_s(self._lost, jitter))
        elif isinstance(failure, DeadlineExceeded) and self._call.if_unknown:
            pause = 0.0
        if pause is not None and now + pause < self._deadline:
            self._lost += 1
            _log.info(
                "%s is asked for again in %.2f s, attempt %d: %s", self._call.method, pause, self._lost + 1, failure
            )
            return pause
        raise self._unknown(failure) if self._call.if_unknown else failure

    def _asked_s(self, failure: Unavailable) -> float:
        """How long the server's word is to wait: none where others are there and only this one is going."""
        if failure.retry_delay is None or (self._several and isinstance(failure, ShuttingDown)):
            return 0.0
        return failure.retry_delay.total_seconds()

    def _refusal(self, failure: CallFailed) -> BlockyardError:
        """What to raise for an answer of the server: itself, unless a lost attempt may have caused it."""
        failure.lost_attempts = self._lost
        return (
            self._unknown(failure)
            if self._lost and failure.reason in self._call.reasons_after_lost_attempt
            else failure
        )

    def _unknown(self, failure: CallFailed) -> OutcomeUnknown:
        advice = self._call.if_unknown or LOOK
        unknown = OutcomeUnknown(
            f"the outcome of {self._call.method} is unknown ({failure}); {advice.text}",
            call=self._call.method,
            advice=advice.text,
            repeatable=advice.repeatable,
            token=self._call.token,
        )
        unknown.__cause__ = failure
        return unknown
