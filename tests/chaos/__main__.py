"""A long adversarial run: `python -m tests.chaos --help`."""

import argparse
import os
import secrets
import signal
import sys
from contextlib import ExitStack
from typing import Final

from tests.chaos.disturbances import chosen
from tests.chaos.round import Setup
from tests.chaos.run import DISTURBANCES, Run, carry_out
from tests.harness.postgres import Postgres
from tests.history.verdict import report

DESCRIPTION: Final = """Clients work, and everything that can happen to a server, its data and its clients happens, in
an order that follows from the seed. The run is divided into rounds of some disturbances, each with data of its own; at
the end of each, or at its first violation, what the clients were told is compared with what there is. The exit code is
0 if nothing was violated and everything that was asked for has happened."""


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=DESCRIPTION)
    add = parser.add_argument
    add("--seed", default=None, help="of everything that is chosen, any text (default: a new one, which is printed)")
    add("--minutes", type=float, default=10.0, help="how long rounds are begun (default: %(default)s)")
    add("--database", choices=list(DISTURBANCES), default="sqlite", help="of the servers (default: %(default)s)")
    add("--servers", type=int, default=1, help="more than one need --database postgres (default: %(default)s)")
    add("--only", nargs="+", default=[], metavar="NAME", help="these disturbances or kinds alone (default: all)")
    add("--round", type=int, default=None, help="this round alone, to the end (default: all that there is time for)")
    add("--program", default=None, help="what stands for `blockyard` (default: the command of this environment)")
    asked = parser.parse_args()
    # PostgreSQL is started as another user, which forks, and gRPC's own handlers of a fork wait for all of its threads.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    seed = asked.seed if asked.seed is not None else secrets.token_hex(4)
    try:
        disturbances = chosen(DISTURBANCES[asked.database], asked.only)
    except ValueError as unknown:
        parser.error(str(unknown))
    again = ["python -m tests.chaos", "--seed", seed, "--database", asked.database, "--servers", str(asked.servers)]
    if asked.only:
        again += ["--only", *(f"'{name}'" for name in asked.only)]
    report(f"seed {seed}")
    # Whoever ends the run, servers and mounts do not stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Run(disturbances, " ".join(again))
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres()) if asked.database == "postgres" else None
        program = () if asked.program is None else (asked.program,)
        carry_out(run, Setup(seed, postgres, asked.servers, program), asked.round, asked.minutes)
    return not run.tell()


if __name__ == "__main__":
    sys.exit(main())
