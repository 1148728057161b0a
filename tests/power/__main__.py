"""Cuts the power in as many ways as asked for, and says what was found. Exits with 1 if a promise was broken.

`make power` is this. The campaign of a seed is always the same, so a violation can be looked at again.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import count

from tests.power.campaign import Plan, Tally, run_campaign
from tests.power.life import Settings
from tests.power.recorder import Lies
from tests.power.store import Pragmas

IMAGES = 10_000
FULL = 0.004
FAILING_SYNCS = 0.1
BATCHES = 15
"""So that a campaign takes minutes, and several of them are needed."""


def main() -> int:
    """Runs campaigns until there are enough images."""
    parser = argparse.ArgumentParser(prog="python -m tests.power", description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="end when there are so many (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first campaign (%(default)s)")
    parser.add_argument("--lives", type=int, default=Plan().lives, help="of each campaign (%(default)s)")
    parser.add_argument("--batches", type=int, default=BATCHES, help="of each life (%(default)s)")
    parser.add_argument("--stride", type=int, default=Plan().stride, help="cut at every so-many-th step (%(default)s)")
    parser.add_argument("--synchronous", choices=["OFF", "NORMAL"], help="instead of the store's FULL: must be red")
    parser.add_argument("--lie", choices=["FILES", "FOLDERS"], help="the disk does not sync these: must be red")
    arguments = parser.parse_args()
    settings = Settings(
        batches=arguments.batches,
        pragmas=Pragmas(synchronous=arguments.synchronous),
        lies=Lies[arguments.lie or "NONE"],
    )
    plan = Plan(arguments.lives, arguments.stride, settings=settings)
    total, campaigns, began_s = Tally(), 0, time.monotonic()
    for seed, tally in _campaigns(plan, arguments.seed, arguments.images, arguments.workers):
        total.add(tally)
        campaigns += 1
        sys.stderr.write(
            f"campaign {seed}: {tally.images} images, {tally.violations} violations; {total.images} images so far, "
            f"{time.monotonic() - began_s:.0f} s\n"
        )
    sys.stdout.write(
        f"power loss: {campaigns} campaigns, {total.acknowledged} acknowledged batches, {total.cuts} cuts, "
        f"{total.images} images ({total.ahead} with the batch under way), {total.violations} violations, "
        f"{time.monotonic() - began_s:.0f} s\n"
    )
    sys.stdout.write(f"  {', '.join(f'{what} {times}' for what, times in sorted(total.struck.items()))}\n")
    sys.stdout.writelines(f"  {images} images: {fault}\n" for fault, images in total.faults.most_common())
    sys.stdout.writelines(f"{report}\n" for report in total.reports)
    return 1 if total.violations else 0


def _campaigns(plan: Plan, first: int, images: int, workers: int) -> Iterator[tuple[int, Tally]]:
    """Campaigns as they end; no new ones begin once there are enough images, and what runs is waited for."""
    running: dict[Future[Tally], int] = {}
    seeds = count(first)
    with ProcessPoolExecutor(workers) as pool:
        done = 0
        while running or done < images:
            while done < images and len(running) < workers:
                seed = next(seeds)
                running[pool.submit(run_campaign, seed, _with_its_disk(seed, plan))] = seed
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                tally = ended.result()
                done += tally.images
                yield running.pop(ended), tally


def _with_its_disk(seed: int, plan: Plan) -> Plan:
    """Every second campaign has a disk that is full now and then, and fails to sync, unless a fault was asked for."""
    if seed % 2 or plan.settings.pragmas.synchronous is not None or plan.settings.lies is not Lies.NONE:
        return plan
    return replace(plan, settings=replace(plan.settings, full=FULL, failing_syncs=FAILING_SYNCS))


if __name__ == "__main__":
    sys.exit(main())
