"""One server for one file and one port: a second one refuses to start, says why, and disturbs nobody."""

from pathlib import Path

import pytest

from blockyard_server.app import StartRefused, running_server
from tests.harness.in_process import client_of, serving, settings_for
from tests.harness.journal import check_fleet
from tests.harness.process import COMMAND, ServerProcess, StartFailed


async def test_a_second_server_on_the_same_file_refuses_to_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as first, client_of(first) as client:
        await client.create_fleet("gpu")
        with pytest.raises(StartRefused, match=r"blockyard\.db is in use by another Blockyard server"):
            async with running_server(settings_for(tmp_path)):
                pytest.fail("two servers write one file")
        await client.create_instance("gpu", "node-1", total_blocks=8)
        await check_fleet(client, "gpu")
    async with serving(tmp_path) as next_one, client_of(next_one) as client:
        await check_fleet(client, "gpu")


async def test_a_second_server_on_the_same_port_refuses_to_start(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as first, client_of(first) as client:
        await client.create_fleet("gpu")
        with pytest.raises(StartRefused, match="Address already in use"):
            async with running_server(settings_for(tmp_path / "two", listen=first.address)):
                pytest.fail("two servers share one port")
        assert (await client.get_fleet("gpu")).name == "fleets/gpu"
    async with serving(tmp_path / "two") as second, client_of(second) as client:
        assert [fleet async for fleet in client.list_fleets()] == [], "it gave its own file back, untouched"


@pytest.mark.slow
@pytest.mark.parametrize("same", ["file", "port"])
def test_the_real_command_says_in_a_sentence_why_it_does_not_start(tmp_path: Path, same: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with ServerProcess(tmp_path) as first:
        first.start()
        second = ServerProcess(other, port=first.port) if same == "port" else ServerProcess(other, data=first.data)
        second.program = [*COMMAND]
        with second, pytest.raises(StartFailed) as failure:
            second.start()
        assert failure.value.code == 1
        assert "does not start" in failure.value.errors
        cause = "in use by another Blockyard server" if same == "file" else "Address already in use"
        assert cause in failure.value.errors
        assert "Traceback" not in failure.value.errors
        assert first.runs
        assert first.terminate() == 0
