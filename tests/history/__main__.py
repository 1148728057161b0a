"""Records a history and checks it with both checkers: `python -m tests.history --help`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import uvloop

from tests.history.stage import Recorded, Setup, record
from tests.history.verdict import check, report, say

DESCRIPTION = """Records what clients ask and are answered, and checks with two checkers that share nothing whether one
order of all calls explains it. The exit code is the number of histories that are wrong, and one more if what was asked
for, a kill or a fault or a server, has not taken place."""


def count_wrong(folders: Sequence[Path]) -> int:
    """Checks several histories, one process each. How many of them are wrong."""
    # Not forked: gRPC's threads would be missing.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return sum(not is_right for is_right in pool.map(check, folders))


def tell(recorded: Recorded, took_s: float) -> None:
    """What was recorded."""
    faults = ", ".join(f"{name} {count}" for name, count in sorted(recorded.faults.items()))
    report(
        f"recorded {recorded.operations} calls in {took_s:.0f} s, {recorded.unknown} without an answer"
        f" ({dict(recorded.why_unknown)});"
        f" {recorded.kills} kills; connections hit: {faults or 'none'}"
    )


def main() -> int:
    """The exit code: how many histories were wrong, and whether what was asked for has not taken place."""
    parser = argparse.ArgumentParser(prog="python -m tests.history", description=DESCRIPTION)
    add = parser.add_argument
    add("--operations", type=int, default=1_000_000, help="calls to record, of all clients (default: %(default)s)")
    add("--clients", type=int, default=64, help="that call at the same time (default: %(default)s)")
    add("--fleets", type=int, default=2, help="each with a history of its own (default: %(default)s)")
    add("--database", choices=["sqlite", "postgres"], default="sqlite", help="of the servers (default: %(default)s)")
    add("--servers", type=int, default=1, help="more than one need --database postgres (default: %(default)s)")
    add("--faults", action="store_true", help="kills servers and disturbs connections (default: nothing is disturbed)")
    add("--kill-every-s", type=float, default=40.0, help="on average, with --faults (default: %(default)s)")
    add("--seed", default="0", help="of the clients' and the faults' choices, any text (default: %(default)s)")
    add("--keep", type=Path, help="an empty folder for the histories, which are kept (default: they are not)")
    add("--check", type=Path, nargs="*", help="only check these folders of histories (default: record one)")
    chosen = parser.parse_args()
    if chosen.check:
        return count_wrong(chosen.check)
    setup = Setup(
        operations=chosen.operations,
        clients=chosen.clients,
        fleets=chosen.fleets,
        servers=chosen.servers,
        database=chosen.database,
        faults=chosen.faults,
        seed=chosen.seed,
        kill_every_s=(chosen.kill_every_s / 2, chosen.kill_every_s * 3 / 2),
    )
    with tempfile.TemporaryDirectory(prefix="blockyard-history-") as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        begun = time.monotonic()
        recorded = uvloop.run(record(folder, setup, say))
        tell(recorded, time.monotonic() - begun)
        lacking = recorded.lacks(setup)
        report("".join(f"asked for, and not seen in this run: {what}\n" for what in lacking).rstrip() or "as asked for")
        return count_wrong(recorded.folders) + bool(lacking)


if __name__ == "__main__":
    sys.exit(main())
