"""What the command line does for a fleet that is too large for one request."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from blockyard import Client, FleetNotFound, LimitExceeded
from tests.cli.conftest import CommandLine


@pytest.mark.slow
def test_a_fleet_of_any_size_is_deleted_by_force_unless_blocks_are_held(blockyard: CommandLine, client: Client) -> None:
    instances = 4097  # one more than are deleted with their fleet
    client.create_fleet("large")
    with ThreadPoolExecutor(64) as workers:
        made = workers.map(lambda n: client.create_instance("large", f"n{n}", total_blocks=1), range(instances))
        assert len(list(made)) == instances
    with pytest.raises(LimitExceeded):
        client.delete_fleet("large", force=True)
    grant = client.acquire("large", blocks=1, holder="job")
    refused = blockyard("fleet", "delete", "large", "--force")
    assert (refused.code, "FLEET_IN_USE" in refused.err) == (1, True)
    assert sum(1 for _ in client.list_instances("large")) == instances

    client.release(grant.allocation)
    assert blockyard("fleet", "delete", "large", "--force").out == "Deleted large.\n"
    with pytest.raises(FleetNotFound):
        client.get_fleet("large")
