"""A scheduler on asyncio: each job waits for its blocks, runs under a lease, and gives them back.

Run it with `python examples/scheduler_loop.py FLEET JOB…`, with names of your own for the jobs.

Worth copying: a token that names one attempt of one job, so that a scheduler that was restarted asks for the same
grant and not for a second one; a wait that keeps the token; a job that is killed before its blocks can be somebody
else's.
"""

import asyncio
import os
import random
import sys
from dataclasses import dataclass

from blockyard import AsyncClient, AsyncLease, CallFailed, Ended, LeaseLost, NoCapacity

TTL_S = 30
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
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await run_attempt(client, fleet, job, token=f"{job.name}-try-{attempt}")
        except (LeaseLost, Ended) as over:
            print(f"{job.name}: attempt {attempt} is over: {over}", file=sys.stderr)
    raise RuntimeError(f"{job.name} was given up after {ATTEMPTS} attempts")


async def run_attempt(client: AsyncClient, fleet: str, job: Job, token: str) -> int:
    """Waits for blocks and runs the job once. Raises LeaseLost or Ended if this attempt's grant is over."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            async with client.lease(fleet, blocks=job.blocks, holder=job.name, token=token, ttl=TTL_S) as lease:
                return await run_command(job, lease)
        except NoCapacity:
            # A refusal leaves the token unused, so the next request is the same intent still.
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


async def main(fleet: str, names: list[str]) -> None:
    """Runs one job of four blocks for each name, as many at a time as the fleet has room for."""
    jobs = [Job(name, 4, (sys.executable, "-c", "print('working')")) for name in names]
    async with AsyncClient() as client, asyncio.TaskGroup() as group:
        runs = {job.name: group.create_task(run_job(client, fleet, job)) for job in jobs}
    for name, run in runs.items():
        print(f"{name} ended with {run.result()}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2:]))
    except* CallFailed as failures:
        sys.exit("\n".join(str(failure) for failure in failures.exceptions))
