"""A scheduler of one job, which finds its blocks again after it was killed: FLEET JOB [TTL_S].

The job needs two blocks, and is done when there is a file JOB.stop.
"""

import sqlite3
import sys
import time
from pathlib import Path

from blockyard import Client, Ended, LeaseLost


def attempt(database: sqlite3.Connection, job: str) -> int:
    """The number of the job's attempt. It is on the disk before anybody is asked for blocks."""
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS jobs (name TEXT PRIMARY KEY, attempt INTEGER)")
        database.execute("INSERT OR IGNORE INTO jobs VALUES (?, 1)", (job,))
    (number,) = database.execute("SELECT attempt FROM jobs WHERE name = ?", (job,)).fetchone()
    return int(number)


def begin_next_attempt(database: sqlite3.Connection, job: str) -> None:
    """Writes down that the attempt is over. The next one has a token of its own."""
    with database:
        database.execute("UPDATE jobs SET attempt = attempt + 1 WHERE name = ?", (job,))


def work(client: Client, fleet: str, job: str, token: str, ttl_s: float) -> None:
    """Holds blocks until the job is done. Raises Ended or LeaseLost: they are not ours any more."""
    with client.lease(fleet, blocks=2, holder=job, token=token, ttl=ttl_s) as lease:
        print(f"{token} holds {lease.allocation.name}", flush=True)
        while not Path(f"{job}.stop").exists():
            lease.check()
            time.sleep(0.1)


def main(fleet: str, job: str, ttl_s: float = 600) -> None:
    """Runs the job until it is done, in as many attempts as it takes."""
    database = sqlite3.connect("scheduler.db")
    with Client() as client:
        while True:
            token = f"{job}-try-{attempt(database, job)}"
            try:
                return work(client, fleet, job, token, ttl_s)
            except (Ended, LeaseLost):
                print(f"{token} is over", flush=True)
                begin_next_attempt(database, job)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
