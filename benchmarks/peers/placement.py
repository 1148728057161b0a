"""OpenStack Placement 16.0.0 behind uwsgi, on SQLite (one process, one thread) and on PostgreSQL (two times eight).

Its providers are our instances, their VCPUs our blocks. Two things are measured of each: the claim of a provider that
the client has chosen already (PUT /allocations/{uuid}), and what our Acquire does, to find one and to claim it (GET
/allocation_candidates, then the PUT). A claim's release is DELETE /allocations/{uuid}.

It is set up in its favour: no authentication to speak of (noauth2), no log of requests, a provider for each claim that
nobody else is claiming, candidates in random order and one at a time. A claim that loses against another one
(409, concurrent update) is tried again, and counts once.
"""

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.one_request import Answer, request
from benchmarks.peers.packages import environment
from benchmarks.peers.peer import BLOCKS, INSTANCES, NotTrue, Peer
from benchmarks.postgres import pid_of, postgres, sqlalchemy_url
from benchmarks.processes import free_port, listens, program, run, wait_until

PACKAGES: Final = (
    "openstack-placement==16.0.0",
    "pyuwsgi==2.0.30.post1",  # uwsgi as a wheel, which needs no compiler
    "psycopg2-binary==2.9.13",  # what its documentation has for PostgreSQL
    "sqlalchemy==2.1.9",
)
START_S: Final = 120.0
TRIES: Final = 100
"""Tries of one claim against concurrent updates."""
SLOWNESS: Final = 3
CONFIGURATION: Final = """\
[DEFAULT]
default_log_levels = placement.requestlog=WARN
[api]
auth_strategy = noauth2
[placement]
randomize_allocation_candidates = true
[placement_database]
connection = {connection}
max_pool_size = {threads}
"""
_HEADERS: Final = "X-Auth-Token: admin\r\nOpenStack-API-Version: placement 1.39\r\n"
_CONFLICT: Final = 409
_OK: Final = (200, 204)


@asynccontextmanager
async def placement_on_sqlite(folder: Path) -> AsyncIterator[list[Peer]]:
    """One process, one thread, as SQLite wants it. Raises NotHere, ProgramFailed."""
    connection = f"sqlite:///{folder / 'placement.db'}"
    async with _placement(folder, "Placement, SQLite", connection, {}, processes=1, threads=1) as peers:
        yield peers


@asynccontextmanager
async def placement_on_postgres(folder: Path) -> AsyncIterator[list[Peer]]:
    """Two processes of eight threads on a PostgreSQL of their own. Raises NotHere, ProgramFailed."""
    with postgres() as database:
        connection, counted = sqlalchemy_url(database, "psycopg2"), {"PostgreSQL": pid_of(database)}
        async with _placement(folder, "Placement, PostgreSQL", connection, counted, processes=2, threads=8) as peers:
            yield peers


@asynccontextmanager
async def _placement(
    folder: Path, name: str, connection: str, counted: Mapping[str, int], *, processes: int, threads: int
) -> AsyncIterator[list[Peer]]:
    programs = environment("placement", PACKAGES)
    configuration = folder / "placement.conf"
    configuration.write_text(CONFIGURATION.format(connection=connection, threads=threads))
    run([programs / "placement-manage", "--config-file", configuration, "db", "sync"], bound_s=START_S)
    port, log = free_port(), folder / "uwsgi.log"
    command: list[str | Path] = [
        *(programs / "uwsgi", "--http-socket", f"127.0.0.1:{port}", "--module", "placement.wsgi.api:application"),
        *("--processes", str(processes), "--threads", str(threads), "--master", "--enable-threads", "--lazy-apps"),
        *("--need-app", "--die-on-term", "--no-orphans", "--disable-logging", "--listen", "100"),
    ]
    with program(command, log, environment={"OS_PLACEMENT_CONFIG_DIR": str(folder)}) as process:
        wait_until(lambda: listens(port), process, log, bound_s=START_S)
        service = _Service(port)
        await service.fill()
        pids = {"server": process.pid, **counted}
        yield [
            Peer(f"{name}: claim", service.claim_and_release, pids, service.prove, SLOWNESS),
            Peer(f"{name}: find, claim", service.find_claim_and_release, pids, service.prove, SLOWNESS),
        ]


@dataclass(slots=True)
class _Service:
    """What is asked of it."""

    port: int
    providers: list[str] = field(default_factory=list)
    turns: "itertools.cycle[str]" = field(default_factory=lambda: itertools.cycle([""]))

    async def fill(self) -> None:
        """As many providers as we have instances."""
        for number in range(INSTANCES):
            provider = str(uuid.uuid4())
            await self._ask("POST", "/resource_providers", {"name": f"node-{number:06d}", "uuid": provider})
            inventory = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": BLOCKS}}}
            await self._ask("PUT", f"/resource_providers/{provider}/inventories", inventory)
            self.providers.append(provider)
        self.turns = itertools.cycle(self.providers)

    async def claim_and_release(self, _token: str) -> tuple[float, float]:
        """Claims on the next provider, and releases."""
        consumer, provider = str(uuid.uuid4()), next(self.turns)
        began = time.perf_counter()
        for _ in range(TRIES):
            if await self._claim(consumer, provider):
                break
        else:
            raise NotTrue(f"{provider} could not be claimed")
        between = time.perf_counter()
        await self._release(consumer)
        return between - began, time.perf_counter() - between

    async def find_claim_and_release(self, _token: str) -> tuple[float, float]:
        """Asks which provider has one, claims on it, and releases."""
        consumer = str(uuid.uuid4())
        began = time.perf_counter()
        for _ in range(TRIES):
            found = (await self._ask("GET", "/allocation_candidates?resources=VCPU:1&limit=1")).json()
            if await self._claim(consumer, next(iter(found["allocation_requests"][0]["allocations"]))):
                break
        else:
            raise NotTrue("no candidate could be claimed")
        between = time.perf_counter()
        await self._release(consumer)
        return between - began, time.perf_counter() - between

    async def prove(self) -> None:
        """A provider gives as many claims as it has VCPUs, not one more, and all are given back."""
        provider, consumers = self.providers[0], [str(uuid.uuid4()) for _ in range(BLOCKS + 1)]
        await self._uses(provider, 0)
        claims = [await self._claim(consumer, provider) for consumer in consumers]
        if claims != [True] * BLOCKS + [False]:
            raise NotTrue(f"of {BLOCKS} VCPUs these claims were granted: {claims}")
        await self._uses(provider, BLOCKS)
        for consumer in consumers[:-1]:
            await self._release(consumer)
        await self._uses(provider, 0)

    async def _claim(self, consumer: str, provider: str) -> bool:
        claim = {
            "allocations": {provider: {"resources": {"VCPU": 1}}},
            "project_id": "bench",
            "user_id": "bench",
            "consumer_generation": None,
            "consumer_type": "JOB",
        }
        return (await self._ask("PUT", f"/allocations/{consumer}", claim, refusal=_CONFLICT)).status != _CONFLICT

    async def _release(self, consumer: str) -> None:
        await self._ask("DELETE", f"/allocations/{consumer}")

    async def _uses(self, provider: str, wanted: int) -> None:
        used = (await self._ask("GET", f"/resource_providers/{provider}/usages")).json()["usages"]["VCPU"]
        if used != wanted:
            raise NotTrue(f"{used} VCPUs are in use, not {wanted}")

    async def _ask(self, method: str, path: str, content: Any = None, *, refusal: int = 200) -> Answer:
        answer = await request(self.port, method, path, _HEADERS, content)
        if answer.status not in {*_OK, refusal}:
            raise NotTrue(f"{method} {path}: {answer.status} {answer.body[:500]!r}")
        return answer
