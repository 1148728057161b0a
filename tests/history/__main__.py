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
    """The exit code: how many histories were wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.history", description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--fleets", type=int, default=2)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--kill-every-s", type=float, default=40.0, help="on average, with --faults")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--keep", type=Path, help="an empty folder for the histories, which are kept")
    parser.add_argument("--check", type=Path, nargs="*", help="only check these folders of histories")
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
        return count_wrong(recorded.folders)


if __name__ == "__main__":
    sys.exit(main())
