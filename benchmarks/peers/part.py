"""Measures the peers, one after the other, each in turns with the echo, and then has each prove its claims."""

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.fill import fill
from benchmarks.load import Measured, Plan, closed_loop, median, pair_of_calls, server_process
from benchmarks.peers.etcd import etcd
from benchmarks.peers.ours import on_postgres, on_postgres_with_two_servers, on_sqlite
from benchmarks.peers.peer import NotHere, Peer
from benchmarks.peers.placement import placement_on_postgres, placement_on_sqlite
from benchmarks.peers.plain import plain_locking_the_fleet, plain_skipping_locked
from benchmarks.peers.verdict import verdict
from benchmarks.processes import cpu_us

PEERS: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[list[Peer]]]]] = {
    "sqlite": on_sqlite,
    "postgres": on_postgres,
    "postgres_two": on_postgres_with_two_servers,
    "placement_sqlite": placement_on_sqlite,
    "placement_postgres": placement_on_postgres,
    "plain": plain_locking_the_fleet,
    "plain_skip_locked": plain_skipping_locked,
    "etcd": etcd,
}
IN_FLIGHT: Final = (1, 64)
WARM_UP_S: Final = 0.3
LOG_WARM_UP_S: Final = 2.0
"""Until write-ahead logs have their length and caches their pages."""

Row = dict[str, Any]


async def peers(folder: Path, plan: Plan) -> list[Row]:
    """Claims and releases beside the peers, each in turns with the echo; a claim and its release are two calls."""
    rows: list[Row] = []
    async with _echo(folder) as echo:
        # Against itself: what a ratio of this run is worth.
        rows += [await _row(echo, echo, in_flight, plan) for in_flight in IN_FLIGHT]
        for name in plan.peers or PEERS:
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as own_folder:
                rows += await _rows_of(name, Path(own_folder), echo, plan)
    return [*rows, *verdict(rows)]


async def _rows_of(name: str, folder: Path, echo: Peer, plan: Plan) -> list[Row]:
    """A peer that is not here, or that fails, is a row that says so; the others go on."""
    rows: list[Row] = []
    try:
        async with PEERS[name](folder) as served:
            for peer in served:
                rows += [await _row(echo, peer, in_flight, plan) for in_flight in IN_FLIGHT]
                await peer.proof()
    except NotHere as reason:
        return [*rows, {"peer": name, "not measured": str(reason)}]
    except Exception as fault:  # noqa: BLE001 - whatever it is, it must not cost the figures of the others
        return [*rows, {"peer": name, "not measured": f"it failed: {fault!r}"}]
    return rows


@asynccontextmanager
async def _echo(folder: Path) -> AsyncIterator[Peer]:
    """The ceiling. Its process serves an idle Blockyard, too, as in the other parts."""
    data = folder / "echo.db"
    await fill(data, instances=1, blocks=1)
    with server_process(data) as facts:
        async with grpc.aio.insecure_channel(facts.echo) as channel:
            yield Peer("echo", pair_of_calls(channel, "blockyard.bench.Echo"), {"server": facts.pid}, _nothing)


async def _nothing() -> None:
    """An echo has nothing to prove."""


async def _row(echo: Peer, peer: Peer, in_flight: int, plan: Plan) -> Row:
    echoes, own, cpu_us_a_call = await _in_turns(echo, peer, in_flight, plan)
    ceiling, middle = median(echoes), median(own)
    shares = sorted(o.calls_per_s / e.calls_per_s for e, o in zip(echoes, own, strict=True))
    return {
        "what": peer.name,
        "in flight": in_flight,
        "echo/s": round(ceiling.calls_per_s),
        "calls/s": round(middle.calls_per_s, 1 if middle.calls_per_s < 1000 else None),
        "of echo": _significant(shares[len(shares) // 2]),
        "p50 ms": round(middle.p50_ms, 2),
        "p99 ms": round(middle.p99_ms, 2),
        "p50/echo's": round(middle.p50_ms / ceiling.p50_ms, 2),
        "cpu us/call": round(sum(cpu_us_a_call.values())),
        "of them": " + ".join(f"{name} {used:.0f}" for name, used in cpu_us_a_call.items()),
    }


def _significant(value: float) -> float:
    """Two digits that say something, also of a small share."""
    return float(f"{value:.2g}") if value < 0.1 else round(value, 2)


async def _in_turns(
    echo: Peer, peer: Peer, in_flight: int, plan: Plan
) -> tuple[list[Measured], list[Measured], dict[str, float]]:
    """The echo's rounds, the peer's, and the microseconds of CPU time that a call of the peer took of each process."""
    await closed_loop(echo.pair, in_flight, WARM_UP_S)
    await closed_loop(peer.pair, 1, min(LOG_WARM_UP_S, plan.round_s * plan.rounds))
    await closed_loop(peer.pair, in_flight, WARM_UP_S)
    echoes: list[Measured] = []
    own: list[Measured] = []
    used = _Cpu(peer)
    for _ in range(plan.rounds):
        echoes.append(await closed_loop(echo.pair, in_flight, plan.round_s))
        with used:
            own.append(await closed_loop(peer.pair, in_flight, plan.round_s * peer.slowness))
    return echoes, own, used.a_call(own)


class _Cpu:
    """Adds up what a peer's processes use inside its `with` blocks."""

    def __init__(self, peer: Peer) -> None:
        self._processes = peer.processes
        self._sums = dict.fromkeys(peer.processes, 0)

    def __enter__(self) -> None:
        for name, pid in self._processes.items():
            self._sums[name] -= cpu_us(pid)

    def __exit__(self, *exc_info: object) -> None:
        for name, pid in self._processes.items():
            self._sums[name] += cpu_us(pid)

    def a_call(self, rounds: Sequence[Measured]) -> dict[str, float]:
        """In microseconds."""
        calls = sum(measured.calls for measured in rounds)
        return {name: used / calls for name, used in self._sums.items()}
