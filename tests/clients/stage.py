"""Where a story is told: a real client, a real server, and a fresh fleet with one 8-block instance."""

import uuid
from dataclasses import dataclass, field
from typing import Final

from tests.clients.real_client import Json, RealClient, Refusal
from tests.harness.process import ServerProcess

BLOCKS: Final = 8


@dataclass
class Stage:
    """The fleet is there once `build` has been called; its methods make the requests that most stories need."""

    client: RealClient
    server: ServerProcess
    fleet_id: str = field(default_factory=lambda: f"f-{uuid.uuid4().hex[:12]}")

    @property
    def fleet(self) -> str:
        return f"fleets/{self.fleet_id}"

    @property
    def instance(self) -> str:
        return f"{self.fleet}/instances/node-1"

    def build(self) -> None:
        self.client.call("FleetAdmin/CreateFleet", {"fleet_id": self.fleet_id})
        self.add_instance("node-1")

    def add_instance(self, instance_id: str, blocks: int = BLOCKS) -> None:
        request = {"parent": self.fleet, "instance_id": instance_id, "instance": {"total_blocks": blocks}}
        self.client.call("FleetAdmin/CreateInstance", request)

    def acquiring(self, blocks: int, **more: object) -> Json:
        """A request with a token of its own."""
        request = {"fleet": self.fleet, "idempotency_token": uuid.uuid4().hex, "holder": "train"}
        return {**request, "demands": [{"blocks": blocks}], **more}

    def acquire(self, blocks: int, **more: object) -> Json:
        """The allocation."""
        allocation: Json = self.client.call("Allocator/Acquire", self.acquiring(blocks, **more))["allocation"]
        return allocation

    def refused(self, method: str, **request: object) -> Refusal:
        return self.client.refusal(method, request)
