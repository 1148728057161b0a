"""The metrics of a real server, as a scrape reads them."""

import asyncio
import shutil
import subprocess
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, get_args
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from blockyard import AsyncClient, CallFailed
from blockyard.reasons import REASONS
from blockyard.v1 import allocator_pb2
from blockyard_server.app import RunningServer, StartRefused
from blockyard_server.domain.events import Expired, FleetCreated
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.requests import FleetFields, Request
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import RateLimited
from blockyard_server.rpc.auth.principal import Principal, PrincipalLimits, set_principal
from blockyard_server.rpc.auth.tokens import new_token
from tests.harness.disturbed_store import DisturbedStore
from tests.harness.in_process import client_of, serving
from tests.harness.patience import eventually

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def get(server: RunningServer, page: str) -> tuple[int, bytes]:
    """The status and the body of a page for operators' tools."""

    def ask() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://{server.ops_address}{page}", timeout=30) as answer:
                return answer.status, answer.read()
        except HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    return await asyncio.to_thread(ask)


async def scrape(server: RunningServer) -> Samples:
    """Every sample by name and labels."""
    _, answer = await get(server, "/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.decode())
        for sample in family.samples
    }


def requests_of(samples: Samples) -> dict[tuple[str, str], float]:
    """How many requests of each kind and outcome."""
    return {
        (dict(labels)["kind"], dict(labels)["outcome"]): value
        for (name, labels), value in samples.items()
        if name == "blockyard_requests_total"
    }


async def fill(client: AsyncClient) -> None:
    await client.create_fleet("gpu")
    await client.create_instance("gpu", "n1", total_blocks=2)
    await client.acquire("gpu", holder="job", blocks=2)


async def test_a_scrape_tells_what_was_asked_and_what_became_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as server, client_of(server) as client:
        await fill(client)
        for _ in range(2):
            with pytest.raises(CallFailed):
                await client.acquire("gpu", holder="late", blocks=1)
        assert (await client.verify("gpu")).clean

        samples = await scrape(server)

    assert requests_of(samples) == {
        ("CreateFleet", "OK"): 1,
        ("CreateInstance", "OK"): 1,
        ("Acquire", "OK"): 1,
        ("Acquire", "NO_CAPACITY"): 2,
    }
    assert samples["blockyard_batches_total", ()] == samples["blockyard_transaction_seconds_count", ()] == 5
    assert samples["blockyard_transaction_seconds_sum", ()] > 0
    assert samples["blockyard_transaction_seconds_bucket", (("le", "+Inf"),)] == 5
    assert samples["blockyard_verifies_total", ()] == 1
    assert {samples[f"blockyard_{name}", ()] for name in ("fleets_halted", "halts_total", "watches")} == {0}
    assert sum(v for (name, _), v in samples.items() if name == "blockyard_queue_waiting") == 0


async def test_an_rpc_is_counted_with_its_code_and_the_reason_of_its_error(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as server, client_of(server) as client:
        await fill(client)
        for fleet in ("gpu", "gpu", "other"):
            with pytest.raises(CallFailed):
                await client.acquire(fleet, holder="late", blocks=1)

        samples = await scrape(server)

    acquire = ("rpc", "blockyard.v1.Allocator/Acquire")
    counted = {
        (dict(labels)["code"], dict(labels)["reason"]): number
        for (name, labels), number in samples.items()
        if name == "blockyard_rpc_total" and acquire in labels
    }
    assert counted == {("OK", ""): 1, ("RESOURCE_EXHAUSTED", "NO_CAPACITY"): 2, ("NOT_FOUND", "FLEET_NOT_FOUND"): 1}
    assert samples["blockyard_rpc_seconds_count", (acquire,)] == 4
    assert samples["blockyard_rpc_in_flight", (acquire,)] == 0


async def test_the_writers_and_the_event_loop_are_measured(tmp_path: Path) -> None:
    store = DisturbedStore(tmp_path / "blockyard.db")
    async with serving(tmp_path, store=store, ops_listen="127.0.0.1:0") as server, client_of(server) as client:
        await fill(client)
        await client.create_instance("gpu", "n2", total_blocks=2)
        store.before_commit.close()
        first = asyncio.create_task(client.acquire("gpu", holder="late", blocks=1))
        await store.before_commit.reached()
        second = asyncio.create_task(client.acquire("gpu", holder="later", blocks=1))

        async def one_waits() -> bool:
            return server.engine.requests_waiting == 1

        await eventually(one_waits, "a request waits")
        busy = await scrape(server)
        assert server.engine.writer_busy_s() > 0
        store.before_commit.open()
        await asyncio.gather(first, second)
        with pytest.raises(CallFailed):
            await client.acquire("gpu", holder="last", blocks=1)
        samples = await scrape(server)
        assert server.engine.writer_busy_s() == 0

    acquire = (("class", "acquire"),)
    assert busy["blockyard_queue_waiting", acquire] == 1
    assert samples["blockyard_queue_waiting", acquire] == 0
    assert samples["blockyard_queue_seconds_count", acquire] == 4
    assert samples["blockyard_batch_requests_count", ()] == samples["blockyard_batches_total", ()]
    assert samples["blockyard_batch_requests_sum", ()] == 7
    assert samples["blockyard_commit_seconds_count", ()] == 6, "the last acquire has changed nothing"
    assert samples["blockyard_loop_lag_seconds_bucket", (("le", "+Inf"),)] >= 0
    assert samples["process_cpu_seconds_total", ()] > 0
    assert [labels for name, labels in samples if name == "blockyard_build_info"]


async def test_leases_that_are_renewed_late_or_not_at_all_are_counted(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        serving(tmp_path, clock=clock, ops_listen="127.0.0.1:0", sweep_interval_s=3600) as server,
        client_of(server) as client,
    ):
        await client.create_fleet("gpu")
        await client.create_instance("gpu", "n1", total_blocks=3)
        held = [await client.acquire("gpu", holder=f"job-{number}", blocks=1, ttl=90) for number in range(3)]
        for passed_s in (59, 61):
            clock.advance(passed_s * 1_000_000)
            for each in held[:2]:
                await client.renew(each.allocation)
        await client.describe("gpu")
        samples = await scrape(server)

    assert samples["blockyard_lease_renewals_late_total", ()] == 2
    assert samples["blockyard_leases_expired_total", (("fleet", "gpu"),)] == 1


async def test_the_blocks_of_a_fleet_are_counted_by_state(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0", metrics_fleets=1) as server, client_of(server) as client:
        await fill(client)
        await client.create_instance("gpu", "n2", total_blocks=4)
        await client.create_instance("gpu", "n3", total_blocks=8)
        await client.cordon_instance("gpu", "n2")
        await client.acquire("gpu", holder="small", blocks=1)
        for fleet in ("a", "b"):
            await client.create_fleet(fleet)
            await client.create_instance(fleet, "n1", total_blocks=16)
        await client.update_instance("b", "n1", total_blocks=17)
        await client.delete_instance("a", "n1")

        samples = await scrape(server)

    blocks = {
        (dict(labels)["fleet"], dict(labels)["state"]): number
        for (name, labels), number in samples.items()
        if name == "blockyard_fleet_blocks"
    }
    assert blocks == {
        ("gpu", "busy"): 3,
        ("gpu", "idle"): 7,
        ("gpu", "unacquirable"): 4,
        ("_other", "busy"): 0,
        ("_other", "idle"): 17,
        ("_other", "unacquirable"): 0,
    }


async def test_a_watch_is_counted_with_its_answers_and_how_far_it_is_behind(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as server, client_of(server) as client:
        await fill(client)
        async with client.watch("gpu", from_revision=1) as changes:
            assert [(await anext(changes)).revision for _ in range(3)] == [1, 2, 3]
            samples = await scrape(server)

    assert samples["blockyard_watches", ()] == samples["blockyard_connections", ()] == 1
    assert samples["blockyard_watch_answers_total", ()] >= 1
    assert samples["blockyard_watch_lag_revisions", ()] >= 0


async def test_the_series_are_bounded_whatever_fleets_and_tenants_there_are(tmp_path: Path) -> None:
    async with serving(tmp_path, ops_listen="127.0.0.1:0") as server:
        engine, rates, calls = server.engine, server.edge.methods.rates, server.edge.calls
        for number in range(10_000):
            fleet = FleetState(f"fleet-{number}", 1)
            engine._transactor._unit.memory.keep(existing(fleet))
            engine.counts.note_commit(fleet.fleet, [expired(number)], 0, 0.0)
            engine.counts.halted_fleets.add(f"fleet-{number}")
        for number in range(1_000):
            set_principal(Principal(f"p-{number}", f"tenant-{number}", "x", limits=PrincipalLimits(calls=1)))
            enter = rates.entrance("blockyard.v1.Allocator.Acquire")
            enter(allocator_pb2.AcquireRequest())
            with pytest.raises(RateLimited):
                enter(allocator_pb2.AcquireRequest())
        for path in calls.under_way:
            for reason, spec in REASONS.items():
                calls._failed[path, spec.status, reason] += 1
        for kind in get_args(Request):
            for reason in REASONS:
                engine.counts.requests[kind.__name__, reason] += 1
        samples = await scrape(server)

    by_name = Counter(name for name, _ in samples)
    assert len(samples) <= 4_000
    assert by_name["blockyard_fleet_blocks"] == 3 * 51
    assert by_name["blockyard_leases_expired_total"] == by_name["blockyard_tenant_units_total"] == 51
    assert by_name["blockyard_fleet_halted"] <= 101
    assert samples["blockyard_leases_expired_total", (("fleet", "_other"),)] == 9_950
    assert samples["blockyard_tenant_throttled_total", (("tenant", "_other"),)] == 950
    assert samples["blockyard_fleets_halted", ()] == 10_000


def existing(state: FleetState) -> FleetState:
    state.revision = 0
    state.apply(FleetCreated(1, 1, FleetFields()))
    return state


def expired(number: int) -> Expired:
    return Expired(1, 1, number, "holder", ())


async def test_promtool_finds_nothing_to_say_about_a_scrape(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    auth_file = tmp_path / "auth.toml"
    auth_file.touch(mode=0o600)
    auth_file.write_text(f'[[principal]]\nid = "a"\ntokens = [{new_token().toml()}]\n')
    plain: dict[str, Any] = {}
    for more in (plain, {"auth_file": auth_file}):
        async with serving(tmp_path, ops_listen="127.0.0.1:0", **more) as server, client_of(server) as client:
            if not more:
                await fill(client)
            _, body = await get(server, "/metrics")
        checked = await asyncio.to_thread(
            subprocess.run, [promtool, "check", "metrics"], input=body, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_two_servers_in_one_process_count_for_themselves(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    async with (
        serving(one, ops_listen="127.0.0.1:0") as busy,
        serving(other, ops_listen="127.0.0.1:0") as idle,
        client_of(busy) as client,
    ):
        await fill(client)

        assert len(requests_of(await scrape(busy))) == 3
        assert requests_of(await scrape(idle)) == {}


async def test_there_are_no_metrics_unless_an_address_is_given(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert server.ops_address is None


async def test_an_address_that_is_taken_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as server:
        with pytest.raises(StartRefused, match=r"ops_listen .* cannot be served: [Aa]ddress already in use"):
            async with serving(tmp_path / "two", ops_listen=server.address):
                pass
