"""A client that forks in its lease: `python -m tests.chaos.forking_client ADDRESS FLEET INSTANCE`.

It prints what it holds once its child has ended, waits for a line, prints whether its lease is held, and ends.
"""

import json
import os
import sys
from typing import Final

from blockyard import Client, LeaseLost

TTL_S: Final = 60.0


def say(**told: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> None:
    """The parent, and its child, which ends inside of the lease."""
    address, fleet, instance = sys.argv[1:]
    with (
        Client(address, timeout_s=20.0) as client,
        client.lease(fleet, holder="parent", blocks=1, instance_names=[instance], ttl=TTL_S) as lease,
    ):
        child = os.fork()
        if child == 0:
            sys.exit(0)  # it leaves both blocks on its way
        os.waitpid(child, 0)
        say(allocation=lease.allocation.name)
        sys.stdin.readline()
        try:
            lease.check()
        except LeaseLost as lost:
            say(held=False, why=str(lost))
        else:
            say(held=True)


if __name__ == "__main__":
    main()
