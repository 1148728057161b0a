"""An address that names several servers: one that answers is enough."""

from blockyard import Client
from tests.cli.conftest import CommandLine


def test_one_server_that_answers_is_enough(blockyard: CommandLine, client: Client, fleet: str) -> None:
    several = f"127.0.0.1:1,{blockyard.address}"
    done = blockyard("acquire", "--fleet", fleet, "--address", several)
    assert (done.code, done.err) == (0, "")
    assert len(list(client.list_allocations(fleet))) == 1
    assert blockyard("fleet", "get", fleet, environment={"BLOCKYARD_ADDRESS": several}).code == 0


def test_none_that_answers_is_a_sentence_with_the_cause_of_each(blockyard: CommandLine) -> None:
    refused = blockyard("describe", "any", "--address", "127.0.0.1:1,no-such-host.invalid:7350")
    assert refused.code == 3
    assert refused.err.startswith("Error: No service answers at 127.0.0.1:1,no-such-host.invalid:7350: 127.0.0.1:1: ")
    assert "Connection refused; no-such-host.invalid:7350: " in refused.err


def test_a_malformed_one_of_several_is_named(blockyard: CommandLine) -> None:
    for address, entry in (("127.0.0.1:7350,", ""), ("127.0.0.1:7350,here", "here"), (",127.0.0.1:7350", "")):
        refused = blockyard("describe", "any", "--address", address)
        assert refused.code == 2
        assert refused.err.startswith(f"Error: {entry!r} in {address!r} is not an address of the form HOST:PORT.\n")
