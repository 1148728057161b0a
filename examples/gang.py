"""A gang: two workers on different machines and one coordinator, granted together or not at all.

Run it with `python examples/gang.py FLEET`. It waits for up to a minute for a server that is away.
"""

import sys

from blockyard import Client, Demand, Expression, NoCapacity, Operator, OutcomeUnknown, Selector, Unsatisfiable

WORKERS = Demand(
    instances=2,  # always two different ones
    blocks=4,
    selector=Selector({"zone": "a"}, (Expression("gpu", Operator.IN, ("a100", "h100")),)),
)
COORDINATOR = Demand(blocks=1, selector=Selector(match_expressions=(Expression("gpu", Operator.DOES_NOT_EXIST),)))

TRY_LATER = 75  # EX_TEMPFAIL
NEVER = 2


def main(fleet: str) -> int:
    """Returns the exit code."""
    with Client(timeout_s=60) as client:
        try:
            with client.lease(fleet, demands=[COORDINATOR, WORKERS], holder="train-7", ttl=60) as lease:
                # In the order in which the instances were chosen: first the coordinator's, then the workers'.
                coordinator, *workers = lease.allocation.placements
                print(f"ssh {coordinator.instance} coordinate --workers {len(workers)}")
                for rank, worker in enumerate(workers):
                    devices = ",".join(map(str, worker.blocks))
                    lease.check()  # before each step that only the holder may take
                    print(f"ssh {worker.instance} CUDA_VISIBLE_DEVICES={devices} train --rank {rank}")
        except Unsatisfiable as refusal:
            print(f"this fleet can never run it: {refusal}", file=sys.stderr)
            return NEVER
        except NoCapacity as refusal:
            missing = refusal.metadata
            found, needed = missing["instances_found"], missing["instances_needed"]
            print(f"not now: demand {missing['demand']} found {found} of {needed} instances", file=sys.stderr)
            return TRY_LATER
        except OutcomeUnknown as failure:
            print(f"nobody answers, and nothing stays held for longer than its TTL: {failure}", file=sys.stderr)
            return TRY_LATER
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
