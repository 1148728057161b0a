"""What clients believe to hold: the rule of the design, by each client's own clock."""

from dataclasses import dataclass, field

from tests.memory.rows import Block
from tests.simulation.kernel import Clock, Violation


@dataclass(eq=False, slots=True)
class Hold:
    """Blocks that a client works on."""

    client: str
    clock: Clock
    fleet: str
    allocation: int
    blocks: set[Block]
    lost_at_us: int | None
    """By the client's clock: from then on it does not work on them any more. None: no lease."""
    stopped: bool = False

    def believed(self) -> bool:
        """Whether the client works on them now."""
        return not self.stopped and (self.lost_at_us is None or self.clock.now_us() < self.lost_at_us)


@dataclass(slots=True)
class Holds:
    """All that clients hold in one fleet."""

    all: list[Hold] = field(default_factory=list)

    def begin(self, hold: Hold, held: dict[Block, int]) -> None:
        """A client begins to work."""
        self.all.append(hold)
        self.check(held)

    def end(self, hold: Hold) -> None:
        """A client does not work any more."""
        hold.stopped = True
        if hold in self.all:
            self.all.remove(hold)

    def check(self, held: dict[Block, int]) -> None:
        """Whatever somebody works on is his by the rows, which have one holder for each block."""
        for hold in self.all:
            for block in hold.blocks:
                if held.get(block) != hold.allocation and hold.believed():
                    holder = held.get(block)
                    now = "nobody's" if holder is None else f"allocation {holder}'s"
                    raise Violation(
                        f"{hold.client} works on block {block[1]} of {block[0]} as allocation {hold.allocation}, "
                        f"and it is {now}"
                    )
