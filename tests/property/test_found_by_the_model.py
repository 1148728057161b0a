"""What the model check has found, each as the shortest story that shows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2 as admin_pb
from blockyard.v1 import resources_pb2
from tests.property.requests import duration
from tests.property.world import Template, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    template = Template(tmp_path)
    made = World(template)
    made.call("CreateFleet", admin_pb.CreateFleetRequest(fleet_id="gpu"))
    yield made
    made.remove()
    template.close()


def test_1_the_refusal_of_a_late_renewal_says_when_the_lease_ended(world: World) -> None:
    node = resources_pb2.Instance(total_blocks=8)
    world.call("CreateInstance", admin_pb.CreateInstanceRequest(parent="fleets/gpu", instance_id="n", instance=node))
    grant, _ = world.call(
        "Acquire",
        pb.AcquireRequest(
            fleet="fleets/gpu",
            idempotency_token="t",
            holder="h",
            demands=[pb.Demand(blocks=1)],
            ttl=duration(1_500_000),
        ),
    )
    world.clock.advance(1_500_000)
    _, error = world.call("Renew", pb.RenewRequest(name=grant["allocation"]["name"]))
    assert error["reason"] == "LEASE_EXPIRED"
    assert error["metadata"]["expire_time"] == "2023-11-14T22:13:21.500000Z"


def test_2_a_fleet_that_is_there_with_another_lease_policy_is_refused_in_the_words_of_the_api(world: World) -> None:
    other = resources_pb2.Fleet(max_ttl=duration(60_000_000), labels={"team": "a"})
    _, error = world.call("CreateFleet", admin_pb.CreateFleetRequest(fleet_id="gpu", fleet=other))
    assert error["reason"] == "FLEET_EXISTS"
    assert error["metadata"]["fields"] == "labels, max_ttl"
