"""Messages as a server would send them, in their JSON form."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from blockyard import Allocation
from blockyard._allocator import get_allocation
from blockyard._call import Call
from blockyard.v1 import resources_pb2
from tests.sdk.fake_server import FakeServer

NAME = "fleets/gpu/allocations/17"
TIME = "2027-01-15T08:00:00Z"
FLEET = {"name": "fleets/gpu", "defaultPlacementStrategy": "WORST_FIT", "maxTtl": "60s", "etag": "e-1", "revision": "4"}
NODE = {"name": "fleets/gpu/instances/node-1", "totalBlocks": 8, "state": "CORDONED", "busyBlocks": 2, "idleBlocks": 6}
ALLOCATION = {
    "name": NAME,
    "holder": "train",
    "state": "HELD",
    "placements": [{"instance": "fleets/gpu/instances/node-1", "blocks": [2, 3]}],
    "fencingToken": "17",
    "revision": "18",
    "ttl": "30s",
    "grantTime": TIME,
    "expireTime": "2027-01-15T08:00:30.250Z",
    "annotations": {"team": "a"},
    "idempotencyToken": "t-1",
    "offlineInstances": ["fleets/gpu/instances/node-1"],
}


def sent(fake: FakeServer, method: str) -> Mapping[str, Any]:
    """The last request of this method, as JSON: only the fields that are set."""
    document: dict[str, Any] = MessageToDict(fake.requests(method)[-1])
    return document


READ: Call[Allocation] = get_allocation(NAME)
"""A call that changes nothing, for tests of what is around it."""


def answer_reads(fake: FakeServer) -> None:
    """From now on, `READ` is answered."""
    fake.answers("GetAllocation", ParseDict(ALLOCATION, resources_pb2.Allocation()))
