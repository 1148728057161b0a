"""A call as a value: what to send where, how to read the answer, and what to do if none comes.

The functions of `operations`, `_allocator`, `_fleet_admin` and `_ledger` make calls and touch no network; the
blocking and the asyncio client carry them out. So each RPC's signature and meaning is written once: the clients'
methods are generated out of these functions (`make generate`).
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from blockyard.reasons import Reason

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
RequestT = TypeVar("RequestT", bound=Message)
AnswerT = TypeVar("AnswerT", bound=Message)


@dataclass(frozen=True, slots=True)
class Advice:
    """What the user does about a change to which no answer came."""

    text: str
    """As a part of a sentence."""
    repeatable: bool = True
    """Whether the same call may be made again: what it has done already is not done twice."""


AGAIN = Advice("the same call may be made again")
"""Where repeating the call gives the same answer."""
LOOK = Advice("read the resource to see", repeatable=False)
"""Where a repetition may meet the effect of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T_co]):
    """One request of one RPC."""

    path: str
    """`/{service}/{method}`."""
    request: Message
    """What is sent. An attempt that is repeated sends the same."""
    answer: type[Message]
    """The message that comes back."""
    decode: Callable[[Any], T_co]
    """Makes the user's value out of it."""
    timeout_s: float | None
    """How long it may take in all, retries included. None: as the client says."""
    if_unknown: Advice | None = None
    """What the user does if no answer ever comes. None for a call that changes nothing."""
    reasons_after_lost_attempt: frozenset[Reason] = frozenset()
    """Refusals that an earlier attempt without an answer may itself have caused: the outcome is unknown then."""
    token: str | None = None
    """The idempotency token of an acquire."""

    @property
    def method(self) -> str:
        """The RPC's name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Call[T_co]):
    """An acquire, release or renewal: a call that can also be a part of a batch."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """A part of a list."""

    items: Sequence[T_co]
    """In the list's order."""
    next_page_token: str
    """For the next page. Empty: this was the last."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """A list that comes in pages."""

    page: Callable[[str], Call[Page[T_co]]]
    """The call for the page with this token; the first page's is empty."""


Plan: TypeAlias = Generator[Call[Any], Any, T]
"""Several calls, one after the other: yields a call, is sent its answer, and returns the user's value."""


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, AnswerT]):
    """One RPC of the service."""

    path: str
    """`/{service}/{method}`."""
    request: type[RequestT]
    """The message that is sent."""
    answer: type[AnswerT]
    """The message that comes back."""

    def call(
        self,
        request: RequestT,
        decode: Callable[[AnswerT], T],
        timeout_s: float | None,
        *,
        if_unknown: Advice | None = None,
        reasons_after_lost_attempt: frozenset[Reason] = frozenset(),
    ) -> Call[T]:
        """A call of this RPC; the arguments are `Call`'s fields."""
        return Call(
            path=self.path,
            request=request,
            answer=self.answer,
            decode=decode,
            timeout_s=timeout_s,
            if_unknown=if_unknown,
            reasons_after_lost_attempt=reasons_after_lost_attempt,
        )

    def guarded_call(
        self, request: RequestT, decode: Callable[[AnswerT], T], timeout_s: float | None, *, etag: str | None
    ) -> Call[T]:
        """A change that an etag may guard: then an attempt without an answer makes its own repetition fail."""
        reasons = frozenset() if etag is None else frozenset({Reason.ETAG_MISMATCH})
        return self.call(request, decode, timeout_s, if_unknown=LOOK, reasons_after_lost_attempt=reasons)

    def operation(
        self,
        request: RequestT,
        decode: Callable[[AnswerT], T],
        timeout_s: float | None,
        *,
        if_unknown: Advice | None,
        token: str | None = None,
    ) -> Operation[T]:
        """The same as an operation."""
        return Operation(
            path=self.path,
            request=request,
            answer=self.answer,
            decode=decode,
            timeout_s=timeout_s,
            if_unknown=if_unknown,
            token=token,
        )
