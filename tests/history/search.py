"""The search for an order that explains what was answered, with nothing but the answers and their times.

After Wing and Gong, and Lowe: time passes from one start or end of a call to the next, and the search keeps every
configuration that is possible so far: the state, and which of the calls under way have already taken effect. A call
that ends must have taken effect; the configurations in which it has not go on with calls under way until it has. If
none is left, no order explains the answers. Equal configurations are one (Lowe's memoisation); a read takes effect
as soon as it fits, which never spoils anything, since it changes nothing.

The work grows with how many changes are under way at once, not with the length of the history. It is bounded by
`limit`, the configurations looked at when one call ends.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

LIMIT: Final = 20_000
"""The configurations that are looked at when one call ends, before the search gives up."""


@dataclass(slots=True, eq=False)
class Step(Generic[S]):
    """One call as the search sees it."""

    number: int
    """Which call of the history, to name it."""
    start_ns: int
    end_ns: int | None
    """None: it may take effect at any time from its start on, or never."""
    apply: Callable[[S], S | None]
    """The state after it; None if it cannot take effect, with this answer, in that state."""
    is_read: bool = False
    """It leaves every state as it is."""


class GaveUp(Exception):
    """There were more configurations than the limit."""


class NoOrder(Exception):
    """No order explains the answers up to the end of this step."""

    def __init__(self, step: Step[S]) -> None:
        super().__init__(f"no order explains call #{step.number} and those before it")
        self.step = step


class Search(Generic[S]):
    """The configurations that are possible so far."""

    def __init__(self, state: S, limit: int = LIMIT) -> None:
        self._limit = limit
        self._configurations: set[tuple[int, S]] = {(0, state)}
        self._bits: dict[Step[S], int] = {}
        self._changes: list[tuple[int, Step[S]]] = []
        self._reads: list[tuple[int, Step[S]]] = []

    def knows(self, step: Step[S]) -> bool:
        """Whether a call that ends had begun in this search."""
        return step in self._bits

    def states(self) -> set[S]:
        """The states that are possible."""
        return {state for _, state in self._configurations}

    def begin(self, step: Step[S]) -> None:
        """A call is sent."""
        used = sum(self._bits.values())
        bit = ~used & (used + 1)
        self._bits[step] = bit
        if step.is_read:
            self._reads.append((bit, step))
            self._configurations = {
                (done | bit if step.apply(state) is not None else done, state) for done, state in self._configurations
            }
        else:
            self._changes.append((bit, step))

    def end(self, step: Step[S]) -> None:
        """Its answer has come. Raises NoOrder, GaveUp."""
        bit = self._bits.pop(step)
        reached = {each for each in self._configurations if each[0] & bit}
        if len(reached) < len(self._configurations):
            reached |= self._go_on(bit, [each for each in self._configurations if not each[0] & bit])
        (self._reads if step.is_read else self._changes).remove((bit, step))
        if not reached:
            raise NoOrder(step)
        self._configurations = {(done & ~bit, state) for done, state in reached}
        if len(self._configurations) > 1:
            self._drop_the_worse()

    def _go_on(self, bit: int, waiting: list[tuple[int, S]]) -> set[tuple[int, S]]:
        """The configurations in which the call of this bit has just taken effect, or fits."""
        reached: set[tuple[int, S]] = set()
        seen = set(waiting)
        while waiting:
            done, state = waiting.pop()
            for change, step in self._changes:
                after = None if done & change else step.apply(state)
                if after is None:
                    continue
                configuration = (self._with_reads(done | change, after), after)
                if configuration in seen:
                    continue
                seen.add(configuration)
                if len(seen) > self._limit:
                    raise GaveUp
                if configuration[0] & bit:
                    reached.add(configuration)
                else:
                    waiting.append(configuration)
        return reached

    def _with_reads(self, done: int, state: S) -> int:
        for bit, step in self._reads:
            if not done & bit and step.apply(state) is not None:
                done |= bit
        return done

    def _drop_the_worse(self) -> None:
        """Of two configurations with equal changes, one that has all the reads of the other can do all that it can."""
        changes = sum(bit for bit, _ in self._changes)
        best: dict[tuple[int, S], list[int]] = {}
        for done, state in self._configurations:
            rivals = best.setdefault((done & changes, state), [])
            if not any(done & ~rival == 0 for rival in rivals):
                rivals[:] = [rival for rival in rivals if rival & ~done]
                rivals.append(done)
        self._configurations = {(done, state) for (_, state), several in best.items() for done in several}


def boundaries(steps: Iterable[Step[S]]) -> Iterator[tuple[bool, Step[S]]]:
    """The starts (True) and ends as time goes by; at equal times the starts come first."""
    several = list(steps)
    starts = sorted(several, key=lambda step: step.start_ns)
    place = 0
    for ending in sorted((step for step in several if step.end_ns is not None), key=lambda step: step.end_ns or 0):
        while place < len(starts) and starts[place].start_ns <= (ending.end_ns or 0):
            yield True, starts[place]
            place += 1
        yield False, ending


def find_order(steps: Iterable[Step[S]], state: S, limit: int = LIMIT) -> None:
    """Searches the whole of a history at once. Raises NoOrder, GaveUp."""
    search = Search(state, limit)
    for begins, step in boundaries(steps):
        if begins:
            search.begin(step)
        else:
            search.end(step)
