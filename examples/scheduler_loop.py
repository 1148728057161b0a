"""A scheduler on asyncio: each job waits for its blocks, runs under a lease, and gives them back.

Run it with `python examples/scheduler_loop.py FLEET JOB…`, with names of your own for the jobs, and again with the same
names. It rides over an outage: jobs that run go on, and those that wait ask again.

Worth copying: a token that names one attempt of one job, so that a scheduler that was restarted asks for the same
grant and not for a second one; a wait that keeps the token; a TTL that is longer than the outages to survive; a job
that is killed before its blocks can be somebody else's; and no job that ends because another one failed.
"""

import asyncio
import logging
import os
import random
import sys
from dataclasses import dataclass
from itertools import count

from blockyard import AsyncClient, AsyncLease, BlockyardError, Ended, LeaseLost, NoCapacity, OutcomeUnknown

TTL_S = 60
"""A lease is given up when two thirds have passed unrenewed, and renewed when one has: outages of 20 s are survived."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
ATTEMPTS = 3

dice = random.SystemRandom()


@dataclass(frozen=True)
class Job:
    """What to run, and what it needs."""

    name: str
    blocks: int
    command: tuple[str, ...]


async def run_job(client: AsyncClient, fleet: str, job: Job) -> int:
    """Runs a job to its end, and again if its lease is lost. Returns its exit code."""
    lost = 0
    for number in count(1):
        try:
            return await run_attempt(client, fleet, job, token=f"{job.name}-try-{number}")
        except Ended:
            continue  # an earlier run of this program used this token, and its grant is over
        except LeaseLost as over:
            print(f"{job.name}: attempt {number} is over: {over}", file=sys.stderr)
            lost += 1
            if lost == ATTEMPTS:
                raise
    raise AssertionError("count has no end")


async def run_attempt(client: AsyncClient, fleet: str, job: Job, token: str) -> int:
    """Waits for blocks and runs the job once. Raises LeaseLost or Ended if this attempt's grant is over."""
    pause_s = FIRST_PAUSE_S
    while True:
        lease = client.lease(fleet, blocks=job.blocks, holder=job.name, token=token, ttl=TTL_S)
        try:
            async with lease:
                return await run_command(job, lease)
        except (NoCapacity, OutcomeUnknown) as failure:
            # Neither has used the token up, so the next request is the same intent still. If nobody answered, the
            # lease has tried to cancel the token; should that reach a server, Ended says so, and the next one serves.
            print(f"{job.name}: waits: {failure}", file=sys.stderr)
            await asyncio.sleep(dice.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


async def run_command(job: Job, lease: AsyncLease) -> int:
    """Runs the command until it ends. Kills it and raises LeaseLost as soon as the lease is lost."""
    placement = lease.allocation.placements[0]
    held = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, placement.blocks)),
        "FENCING_TOKEN": str(lease.allocation.fencing_token),
    }
    process = await asyncio.create_subprocess_exec(*job.command, env=os.environ | held)
    ended = asyncio.create_task(process.wait())
    lost = asyncio.create_task(lease.lost.wait())
    try:
        await asyncio.wait((ended, lost), return_when=asyncio.FIRST_COMPLETED)
        lease.check()
        return await ended
    finally:
        # Before the end of the lease's block, which releases: nobody may work with blocks that are free.
        if process.returncode is None:
            process.kill()
        await ended
        lost.cancel()


async def main(fleet: str, names: list[str], command: tuple[str, ...]) -> int:
    """Runs one job of four blocks for each name, as many at a time as the fleet has room for. Returns the exit code."""
    jobs = [Job(name, 4, command) for name in names]
    async with AsyncClient() as client:
        # Not a TaskGroup: that would end the healthy jobs because one could not be granted.
        outcomes = await asyncio.gather(*(run_job(client, fleet, job) for job in jobs), return_exceptions=True)
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, BlockyardError):
            raise outcome
        print(f"{job.name} ended with {outcome}")
    return 0 if all(outcome == 0 for outcome in outcomes) else 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    work = os.environ.get("JOB_COMMAND", "print('working')")
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:], (sys.executable, "-c", work))))
