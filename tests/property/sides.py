"""Both sides of the model check: each request goes to the real service and to the model; their answers are compared."""

import re
from typing import Any, Final

from google.protobuf.message import Message

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2 as admin_pb
from blockyard.v1 import ledger_pb2
from tests.property.model import Model
from tests.property.model_records import Refusal
from tests.property.plain import Plain, plain
from tests.property.world import JOURNAL_RETENTION_S, RETENTION_S, Template, World

_ITEMS: Final = {
    "Describe": "instances",
    "ListAllocations": "allocations",
    "ListInstances": "instances",
    "ListFleets": "fleets",
    "ListEvents": "events",
}
"""The RPCs that answer page by page, with what a page is made of."""


class Sides:
    """The service on an empty store, and an empty model. `agree` is false once a comparison has failed."""

    def __init__(self, template: Template) -> None:
        self.world = World(template)
        spans_us = (round(span_s * 1e6) for span_s in (template.grace_s, RETENTION_S, JOURNAL_RETENTION_S))
        self.model = Model(self.world.clock.now_us(), *spans_us)
        self.agree = True
        self._compared_events: dict[str, int] = {}

    def check(self, rpc: str, request: Message, caller: str | None = None) -> str:
        """Sends a request to both sides and compares the answers. Answers what was said, for people."""
        self.agree = False
        expected, refusal = self._expect(rpc, request, caller)
        answer, error = self._all_pages(rpc, request) if rpc in _ITEMS else self.world.call(rpc, request, caller)
        said = f"{rpc} {plain(request)}{f' by {caller}' if caller else ''} -> {answer or error}"
        _keep_documented_metadata(error, refusal)
        for found, wanted in zip(answer.get("results", []), expected.get("results", []), strict=False):
            _keep_documented_metadata(found.get("error"), wanted.get("error"))
        assert (answer, error) == (expected, refusal), f"{said}\nThe model says: {expected or refusal}"
        self.agree = True
        return said

    def _expect(self, rpc: str, request: Message, caller: str | None) -> tuple[Plain, Plain]:
        self.model.caller = caller or "default"
        method = getattr(self.model, re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower())
        try:
            return method(plain(request)), {}
        except Refusal as refusal:
            return {}, refusal.plain

    def _all_pages(self, rpc: str, request: Any) -> tuple[Plain, Plain]:
        """The pages, put together: each is as long as was asked for at most, and they agree in everything else."""
        items, rest = _ITEMS[rpc], None
        found: list[Plain] = []
        size, token = request.page_size, ""
        while True:
            page_request = type(request)()
            page_request.CopyFrom(request)
            page_request.page_token = token
            answer, error = self.world.call(rpc, page_request)
            if error:
                assert not found, "a later page is refused"
                return {}, error
            page = answer.pop(items, [])
            token = answer.pop("next_page_token", "")
            assert len(page) <= (size or 100), "a page is longer than was asked for"
            assert page or not token, "an empty page, though little was looked at"
            assert rest is None or answer == rest, "two pages of one revision differ"
            rest = answer
            found += page
            if not token:
                return rest | ({items: found} if found else {}), {}

    def compare_everything(self) -> None:
        """Every fleet, instance, block and allocation of both sides, and the events since the last time."""
        self.check("ListFleets", admin_pb.ListFleetsRequest())
        for fleet in list(self.model.fleets.values()):
            if fleet.exists:
                self.check("Describe", pb.DescribeRequest(fleet=fleet.name, view=pb.FULL))
                self.check("ListAllocations", pb.ListAllocationsRequest(parent=fleet.name, page_size=1000))
                self.check("ListInstances", admin_pb.ListInstancesRequest(parent=fleet.name))
            since = self._compared_events.get(fleet.fleet, 0) + 1
            self.check(
                "ListEvents", ledger_pb2.ListEventsRequest(parent=fleet.name, from_revision=since, page_size=1000)
            )
            self._compared_events[fleet.fleet] = fleet.revision

    def verify_everything(self) -> None:
        """Every fleet that is or was."""
        for fleet in self.model.fleets.values():
            self.check("Verify", ledger_pb2.VerifyRequest(fleet=fleet.name))

    def advance(self, by_us: int) -> None:
        """Time passes."""
        self.world.clock.advance(by_us)
        self.model.now += by_us

    def restart(self) -> None:
        """The server stops and another one starts."""
        self.world.restart()
        self.model.restart()

    def sweep_round(self) -> None:
        """The sweeper works."""
        self.world.sweep_round()
        self.model.sweep_round()


def _keep_documented_metadata(found: Plain | None, documented: Plain | None) -> None:
    """What the reason's documentation promises must be there; more may be."""
    if found and documented:
        found["metadata"] = {key: found["metadata"].get(key) for key in documented["metadata"]}
