"""The metrics of a real server, as a scrape reads them."""

import asyncio
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from blockyard import AsyncClient, CallFailed
from blockyard_server.app import RunningServer, StartRefused
from blockyard_server.rpc.auth.tokens import new_token
from tests.harness.in_process import client_of, serving
from tests.tls.authorities import Authorities

OPERATIONS = Path(__file__).parents[2] / "docs" / "how-to" / "operate.md"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(server: RunningServer) -> Samples:
    """Every sample by name and labels."""
    url = f"http://{server.metrics_address}/metrics"
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read())
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
    async with serving(tmp_path, metrics_listen="127.0.0.1:0") as server, client_of(server) as client:
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
    assert samples["blockyard_requests_waiting", ()] == 0


async def test_the_operators_page_names_every_metric_and_no_other(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    certificate = Authorities(tls).files.settings()
    auth_file = tls / "auth.toml"
    auth_file.touch(mode=0o600)
    auth_file.write_text(f'[[principal]]\nid = "a"\ntokens = [{new_token().toml()}]\n')
    async with (
        serving(tmp_path, metrics_listen="127.0.0.1:0") as server,
        client_of(server) as client,
        serving(tls, metrics_listen="127.0.0.1:0", auth_file=auth_file, **certificate) as with_tls,
    ):
        await fill(client)
        samples = {**await scrape(server), **await scrape(with_tls)}
        names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name, _ in samples}

    assert set(re.findall(r"`(blockyard_\w+)`", OPERATIONS.read_text(encoding="utf-8"))) == names


async def test_two_servers_in_one_process_count_for_themselves(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    async with (
        serving(one, metrics_listen="127.0.0.1:0") as busy,
        serving(other, metrics_listen="127.0.0.1:0") as idle,
        client_of(busy) as client,
    ):
        await fill(client)

        assert len(requests_of(await scrape(busy))) == 3
        assert requests_of(await scrape(idle)) == {}


async def test_there_are_no_metrics_unless_an_address_is_given(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert server.metrics_address is None


async def test_an_address_that_is_taken_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as server:
        with pytest.raises(StartRefused, match=r"metrics cannot be served on .*[Aa]ddress already in use"):
            async with serving(tmp_path / "two", metrics_listen=server.address):
                pass
