"""What a team would write itself: one transaction for each request, `SELECT … FOR UPDATE`, the same stack and messages.

grpc.aio, uvloop, SQLAlchemy and asyncpg on PostgreSQL; Acquire and Release of our protos, as far as a load needs
them: one demand of some blocks, best fit. Written as well as one transaction for each request allows: a pool,
statements that are prepared once, indexes, an idempotency token that commits with the grant, counters moved by SQL.

It has two ways to keep two requests off the same blocks, and the first argument chooses:
- `fleet` locks the fleet's row. Best fit is exact, and so is a refusal: what Blockyard promises.
- `instance` locks the best instance that nobody else has locked (SKIP LOCKED). Faster, and best fit only nearly.

It has no leases, no journal, no revisions, no Verify, and does not compare what is asked again under one token.
`python -m benchmarks.peers.plain_service WAY URL INSTANCES` prints one line of JSON when it serves, and stops with
its input.
"""

import asyncio
import json
import os
import sys
import uuid
from typing import Any, Final

import grpc
import uvloop
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.peers.peer import BLOCKS
from blockyard.v1 import allocator_pb2 as pb

POOL: Final = 16
"""Connections. More of them only wait for the same locks and cores."""
MAX_TRIES: Final = 1000
PAUSE_S: Final = 0.005
"""Of an Acquire that skips what is locked: to wait for a lock with another in hand would be a deadlock."""

SCHEMA: Final = (
    "CREATE TABLE fleets (name text PRIMARY KEY)",
    """CREATE TABLE instances (
         fleet text REFERENCES fleets, name text, position integer NOT NULL, total integer NOT NULL,
         idle integer NOT NULL CHECK (idle BETWEEN 0 AND total),
         held integer[] NOT NULL DEFAULT '{}' CHECK (cardinality(held) = total - idle),
         PRIMARY KEY (fleet, name))""",
    "CREATE INDEX best_fit ON instances (fleet, idle, position)",
    """CREATE TABLE allocations (
         fleet text, name text, holder text NOT NULL, instance text NOT NULL, blocks integer[] NOT NULL,
         granted timestamptz NOT NULL DEFAULT now(), released timestamptz, PRIMARY KEY (fleet, name))""",
    "CREATE TABLE tokens (fleet text, token text, allocation text NOT NULL, PRIMARY KEY (fleet, token))",
)
NEW_FLEET: Final = text("INSERT INTO fleets VALUES (:fleet)")
NEW_INSTANCES: Final = text(
    """INSERT INTO instances
       SELECT :fleet, 'node-' || lpad(CAST(n AS text), 6, '0'), n, :blocks, :blocks
       FROM generate_series(0, :instances - 1) AS n"""
)
LOCK_FLEET: Final = text("SELECT name FROM fleets WHERE name = :fleet FOR UPDATE")
TAKE_TOKEN: Final = text(
    "INSERT INTO tokens VALUES (:fleet, :token, :allocation) ON CONFLICT DO NOTHING RETURNING allocation"
)
KNOWN_TOKEN: Final = text(
    """SELECT a.* FROM tokens t JOIN allocations a ON a.fleet = t.fleet AND a.name = t.allocation
       WHERE t.fleet = :fleet AND t.token = :token"""
)
_BEST = (
    "SELECT name, total, held FROM instances WHERE fleet = :fleet AND idle >= :blocks ORDER BY idle, position LIMIT 1"
)
HAS_ROOM: Final = text(_BEST)
BEST: Final = text(f"{_BEST} FOR UPDATE")
BEST_NOT_LOCKED: Final = text(f"{_BEST} FOR UPDATE SKIP LOCKED")
HOLD: Final = text(
    """UPDATE instances SET idle = idle - cardinality(CAST(:blocks AS integer[])),
              held = held || CAST(:blocks AS integer[])
       WHERE fleet = :fleet AND name = :instance"""
)
GRANT: Final = text(
    """INSERT INTO allocations (fleet, name, holder, instance, blocks)
       VALUES (:fleet, :allocation, :holder, :instance, :blocks) RETURNING *"""
)
FIND: Final = text("SELECT * FROM allocations WHERE fleet = :fleet AND name = :allocation FOR UPDATE")
FREE: Final = text(
    """UPDATE instances SET idle = idle + cardinality(CAST(:blocks AS integer[])),
              held = ARRAY(SELECT unnest(held) EXCEPT SELECT unnest(CAST(:blocks AS integer[])))
       WHERE fleet = :fleet AND name = :instance"""
)
END: Final = text(
    "UPDATE allocations SET released = now() WHERE fleet = :fleet AND name = :allocation AND released IS NULL"
)


class Allocator:
    """Acquire and Release, each in a transaction of its own, READ COMMITTED."""

    def __init__(self, engine: AsyncEngine, *, locks_the_fleet: bool) -> None:
        self._engine = engine
        self._locks_the_fleet = locks_the_fleet

    async def acquire(
        self, request: pb.AcquireRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AcquireResponse:
        """Grants the demand's blocks on one instance. Errors: RESOURCE_EXHAUSTED; UNAVAILABLE."""
        tries, answer = 1, await self._try_to_acquire(request)
        while answer is None:
            if self._locks_the_fleet or not await self._has_room(request):
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no instance has so many idle blocks")
            if tries == MAX_TRIES:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "all instances with idle blocks are locked")
            await asyncio.sleep(PAUSE_S)
            tries, answer = tries + 1, await self._try_to_acquire(request)
        return answer

    async def _try_to_acquire(self, request: pb.AcquireRequest) -> pb.AcquireResponse | None:
        """One transaction; None, and nothing done, when it finds no instance."""
        fleet, token, blocks = _id(request.fleet), request.idempotency_token, request.demands[0].blocks
        async with self._engine.connect() as db, db.begin() as transaction:
            if self._locks_the_fleet:
                await db.execute(LOCK_FLEET, {"fleet": fleet})
            name = uuid.uuid4().hex
            taken = await db.scalar(TAKE_TOKEN, {"fleet": fleet, "token": token, "allocation": name})
            if taken is None:
                known = (await db.execute(KNOWN_TOKEN, {"fleet": fleet, "token": token})).one()
                return _granted(known, replayed=True)
            find = BEST if self._locks_the_fleet else BEST_NOT_LOCKED
            best = (await db.execute(find, {"fleet": fleet, "blocks": blocks})).one_or_none()
            if best is None:
                await transaction.rollback()
                return None
            held = set(best.held)
            mine = [number for number in range(best.total) if number not in held][:blocks]
            place = {"fleet": fleet, "instance": best.name, "blocks": mine}
            await db.execute(HOLD, place)
            row = (await db.execute(GRANT, {**place, "allocation": name, "holder": request.holder})).one()
        return _granted(row, replayed=False)

    async def _has_room(self, request: pb.AcquireRequest) -> bool:
        asked = {"fleet": _id(request.fleet), "blocks": request.demands[0].blocks}
        async with self._engine.connect() as db:
            return (await db.execute(HAS_ROOM, asked)).one_or_none() is not None

    async def release(
        self, request: pb.ReleaseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReleaseResponse:
        """Ends an allocation by its name; again is no error. Errors: NOT_FOUND."""
        fleet, name = _id(request.name), request.name.rpartition("/")[2]
        async with self._engine.begin() as db:
            if self._locks_the_fleet:
                await db.execute(LOCK_FLEET, {"fleet": fleet})
            row = (await db.execute(FIND, {"fleet": fleet, "allocation": name})).one_or_none()
            if row is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, request.name)
            if row.released is not None:
                return pb.ReleaseResponse(outcome=pb.ReleaseResponse.ALREADY_RELEASED, allocation=_allocation(row))
            await db.execute(FREE, {"fleet": fleet, "instance": row.instance, "blocks": row.blocks})
            await db.execute(END, {"fleet": fleet, "allocation": name})
        return pb.ReleaseResponse(outcome=pb.ReleaseResponse.RELEASED, allocation=_allocation(row))


def _id(name: str) -> str:
    """`fleets/{fleet}` or what is below it: the fleet's id."""
    return name.split("/", 2)[1]


def _granted(row: Any, *, replayed: bool) -> pb.AcquireResponse:
    answer = pb.AcquireResponse(allocation=_allocation(row), replayed=replayed)
    answer.server_time.GetCurrentTime()
    return answer


def _allocation(row: Any) -> Any:
    allocation = pb.AcquireResponse().allocation
    allocation.name, allocation.holder = f"fleets/{row.fleet}/allocations/{row.name}", row.holder
    allocation.placements.add(instance=f"fleets/{row.fleet}/instances/{row.instance}", blocks=row.blocks)
    allocation.grant_time.FromDatetime(row.granted)
    return allocation


def handlers(allocator: Allocator) -> grpc.GenericRpcHandler:
    """The two methods under their names of our protos."""
    return grpc.method_handlers_generic_handler(
        "blockyard.v1.Allocator",
        {
            "Acquire": grpc.unary_unary_rpc_method_handler(
                allocator.acquire,
                request_deserializer=pb.AcquireRequest.FromString,
                response_serializer=pb.AcquireResponse.SerializeToString,
            ),
            "Release": grpc.unary_unary_rpc_method_handler(
                allocator.release,
                request_deserializer=pb.ReleaseRequest.FromString,
                response_serializer=pb.ReleaseResponse.SerializeToString,
            ),
        },
    )


async def main(way: str, url: str, instances: str) -> None:
    """Makes the tables and the fleet `bench`, and serves until the input ends."""
    engine = create_async_engine(url, pool_size=POOL, max_overflow=0)
    async with engine.begin() as db:
        for statement in SCHEMA:
            await db.execute(text(statement))
        await db.execute(NEW_FLEET, {"fleet": "bench"})
        await db.execute(NEW_INSTANCES, {"fleet": "bench", "instances": int(instances), "blocks": BLOCKS})
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handlers(Allocator(engine, locks_the_fleet=way == "fleet")),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"pid": os.getpid(), "address": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    await engine.dispose()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
