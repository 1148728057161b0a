"""`blockyard` with a fault, to see it caught: `lying_server.py drop|double serve …`.

`drop`    now and then an acquire is answered with success, and what it was granted is given back at once;
`double`  now and then an acquire is answered with the blocks of the one before it.
"""

import sys
from typing import Any, Final

from blockyard.cli import main
from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.rpc.allocator import AllocatorServicer

EVERY: Final = 10
"""One acquire of so many is answered with a lie."""

_right = AllocatorServicer.Acquire
_answers: list[pb.AcquireResponse] = []


def _is_due(answer: pb.AcquireResponse) -> bool:
    """Whether it is time for a lie. Notes every answer."""
    _answers.append(answer)
    return len(_answers) % EVERY == 0 and not answer.replayed


async def _drop(self: AllocatorServicer, request: pb.AcquireRequest, context: Any) -> pb.AcquireResponse:
    answer = await _right(self, request, context)
    if _is_due(answer):
        await self.Release(pb.ReleaseRequest(name=answer.allocation.name), context)
    return answer


async def _double(self: AllocatorServicer, request: pb.AcquireRequest, context: Any) -> pb.AcquireResponse:
    answer = await _right(self, request, context)
    if _is_due(answer):
        before = next(each for each in reversed(_answers[:-1]) if _same_fleet(each, answer))
        lie = pb.AcquireResponse()
        lie.CopyFrom(answer)
        del lie.allocation.placements[:]
        lie.allocation.placements.extend(before.allocation.placements)
        return lie
    return answer


def _same_fleet(one: pb.AcquireResponse, other: pb.AcquireResponse) -> bool:
    return one.allocation.name.split("/")[1] == other.allocation.name.split("/")[1]


LIES: Final = {"drop": _drop, "double": _double}

if __name__ == "__main__":
    AllocatorServicer.Acquire = LIES[sys.argv.pop(1)]  # type: ignore[method-assign]  # the fault
    sys.exit(main())
