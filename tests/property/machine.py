"""The state machine: each rule sends a request to the real service and to the model, and compares the answers."""

import itertools
from collections import Counter
from random import Random
from typing import ClassVar, Final

import hypothesis.strategies as st
from google.protobuf.message import Message
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2 as admin_pb
from blockyard.v1 import ledger_pb2, resources_pb2
from tests.property import requests
from tests.property.malformed import MALFORMED
from tests.property.model_records import Fleet, Refusal
from tests.property.plain import plain
from tests.property.sides import Sides
from tests.property.world import Template

COMPARE_EVERY: Final = 8
"""Steps between two comparisons of the whole state. Not one: reading a fleet sweeps its leases, and much can go wrong
only where nobody has looked."""


def _choices(machine: "ModelCheck", drawn: int) -> Random:
    machine.drawn[drawn] += 1
    return Random(f"{machine.run} {drawn} {machine.drawn[drawn]}")


Choices = st.builds(_choices, st.runner(), st.integers(0, 2**16))
"""One draw of Hypothesis for each step: a failure is made small by leaving steps out, and a step costs little.

Hypothesis prefers small numbers and repetition. The run's own number makes that other steps in each run, and the
second time that a number is drawn is another step than the first.
"""


class ModelCheck(RuleBasedStateMachine):
    """One example: one data file. `template` and `run` must be set before."""

    template: ClassVar[Template]
    run: ClassVar[int]
    """Which steps this is about: another number means others."""
    steps: ClassVar[int] = 0
    """Steps that were executed and compared, in all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = Sides(self.template)
        self.drawn: Counter[int] = Counter()
        self._numbers = itertools.count(1)
        self._acquires: list[tuple[str | None, pb.AcquireRequest]] = []
        self._since_comparison = 0

    def teardown(self) -> None:
        """The last comparison, unless something else failed."""
        try:
            if self.sides.agree:
                self.sides.compare_everything()
                self.sides.verify_everything()
        finally:
            self.sides.world.remove()

    # What the rules are made of.

    def check(self, rpc: str, request: Message, caller: str | None = None) -> None:
        """Sends a request to both sides; what they say is printed if the example fails."""
        note(self.sides.check(rpc, request, caller))

    def _fleet(self, name: str) -> Fleet | None:
        return self.sides.model.fleets.get(name.split("/")[1])

    def _some_fleet(self, r: Random) -> str:
        """Mostly one that exists."""
        existing = [fleet.name for fleet in self.sides.model.fleets.values() if fleet.exists]
        return r.choice(existing) if existing and r.randrange(20) else requests.fleet_name(r)

    def _busy_fleet(self, r: Random) -> str:
        """Mostly one with allocations."""
        busy = [fleet.name for fleet in self.sides.model.fleets.values() if fleet.exists and fleet.allocations]
        return r.choice(busy) if busy and r.randrange(20) else self._some_fleet(r)

    def _some_instance(self, r: Random, fleet: str) -> str:
        """Mostly one that exists."""
        there = self._fleet(fleet)
        if there is None or not there.instances or r.randrange(8) == 0:
            return requests.instance_name(r, fleet)
        return r.choice(list(there.instances.values())).name

    def _token(self, r: Random) -> str:
        return r.choice(["t", "t ", '"%_']) + str(next(self._numbers))

    # What happens.

    @initialize(r=Choices)
    def begin(self, r: Random) -> None:
        """A fleet with some instances."""
        note(f"run {self.run}")
        fleet = requests.fleet_fields(r) if r.randrange(2) else resources_pb2.Fleet()
        self.check("CreateFleet", admin_pb.CreateFleetRequest(fleet_id="gpu", fleet=fleet))
        for instance in r.sample(requests.INSTANCES, k=4):
            self.check("CreateInstance", requests.create_instance(r, "fleets/gpu", instance))

    @invariant()
    def both_sides_agree(self) -> None:
        """Counts the steps; compares everything now and then."""
        type(self).steps += 1
        self._since_comparison += 1
        if self._since_comparison >= COMPARE_EVERY:
            self._since_comparison = 0
            self.sides.compare_everything()

    @rule(r=Choices)
    def acquire_a_few_blocks(self, r: Random) -> None:
        self._acquire(r, plain=True)

    @rule(r=Choices)
    def acquire_a_few_blocks_more(self, r: Random) -> None:
        self._acquire(r, plain=True)

    @rule(r=Choices)
    def acquire_anything(self, r: Random) -> None:
        self._acquire(r, plain=False)

    @rule(r=Choices)
    def acquire_anything_else(self, r: Random) -> None:
        self._acquire(r, plain=False)

    def _acquire(self, r: Random, *, plain: bool) -> None:
        caller, request = (
            r.choice(requests.CALLERS),
            requests.acquire(r, self._some_fleet(r), self._token(r), plain=plain),
        )
        self.check("Acquire", request, caller)
        self._acquires.append((caller, request))

    @rule(r=Choices)
    def repeat_an_acquire(self, r: Random) -> None:
        """The same request: by the same caller, or by one whose token it is not."""
        if self._acquires:
            caller, request = self._earlier(r)
            self.check("Acquire", request, caller if r.randrange(3) else r.choice(requests.CALLERS))

    @rule(r=Choices)
    def repeat_an_acquire_altered(self, r: Random) -> None:
        if self._acquires:
            caller, request = self._earlier(r)
            self.check("Acquire", requests.altered(r, request), caller)

    def _earlier(self, r: Random) -> tuple[str | None, pb.AcquireRequest]:
        """Mostly one whose token is known, which is where repeating matters."""
        known = [
            (caller, request)
            for caller, request in self._acquires[-40:]
            for fleet in [self._fleet(request.fleet)]
            if fleet is not None and (caller or "default", request.idempotency_token) in fleet.tokens
        ]
        return r.choice(known[-10:] if known and r.randrange(5) else self._acquires[-10:])

    @rule(r=Choices)
    def acquire_with_a_token_that_may_be_cancelled(self, r: Random) -> None:
        self.check("Acquire", requests.acquire(r, self._some_fleet(r), f"early-{r.randrange(30)}", plain=True))

    @rule(r=Choices)
    def release_what_is_held(self, r: Random) -> None:
        """Any of it: so instances get holes."""
        held = [allocation.name for fleet in self.sides.model.fleets.values() for allocation in fleet.live()]
        if held:
            self.check("Release", pb.ReleaseRequest(name=r.choice(held)))

    @rule(r=Choices)
    def release_in_any_way(self, r: Random) -> None:
        self.check("Release", self._release(r), r.choice(requests.CALLERS))

    @rule(r=Choices)
    def release_in_any_way_once_more(self, r: Random) -> None:
        self.check("Release", self._release(r), r.choice(requests.CALLERS))

    def _release(self, r: Random) -> pb.ReleaseRequest:
        name = self._busy_fleet(r)
        tokens = [request.idempotency_token for _, request in self._acquires if request.fleet == name]
        return requests.release(r, self._fleet(name), name, tokens)

    @rule(r=Choices)
    def renew(self, r: Random) -> None:
        self.check("Renew", self._renew(r))

    @rule(r=Choices)
    def renew_once_more(self, r: Random) -> None:
        self.check("Renew", self._renew(r))

    def _renew(self, r: Random) -> pb.RenewRequest:
        name = self._busy_fleet(r)
        return requests.renew(r, self._fleet(name), name)

    @rule(r=Choices)
    def batch(self, r: Random) -> None:
        caller = r.choice(requests.CALLERS)
        operations = [self._operation(r, caller) for _ in range(r.choice([1, 2, 4, 8]))]
        self.check("Batch", pb.BatchRequest(operations=operations), caller)

    def _operation(self, r: Random, caller: str | None) -> pb.BatchOperation:
        match r.choice(
            ["acquire", "acquire", "acquire", "again", "release", "release", "renew", "nothing", "holderless"]
        ):
            case "acquire":
                request = requests.acquire(r, self._some_fleet(r), self._token(r), plain=bool(r.randrange(2)))
                self._acquires.append((caller, request))
                return pb.BatchOperation(acquire=request)
            case "again" if self._acquires:
                return pb.BatchOperation(acquire=self._acquires[-1][1])
            case "release":
                return pb.BatchOperation(release=self._release(r))
            case "renew":
                return pb.BatchOperation(renew=self._renew(r))
            case "holderless":
                request = requests.acquire(r, self._some_fleet(r), self._token(r), plain=True)
                request.holder = ""
                return pb.BatchOperation(acquire=request)
            case _:
                return pb.BatchOperation()

    # What operators do.

    @rule(r=Choices)
    def create_a_fleet(self, r: Random) -> None:
        """One that may be there; a new one gets an instance."""
        fleet = r.choice(["gpu", "cpu.2"])
        before = self._fleet(f"fleets/{fleet}")
        fields = requests.fleet_fields(r) if r.randrange(2) else resources_pb2.Fleet()
        self.check("CreateFleet", admin_pb.CreateFleetRequest(fleet_id=fleet, fleet=fields))
        if before is None or not before.instances:
            self.check("CreateInstance", requests.create_instance(r, f"fleets/{fleet}", r.choice(requests.INSTANCES)))

    @rule(r=Choices)
    def update_a_fleet(self, r: Random) -> None:
        name = self._some_fleet(r)
        fleet = self._fleet(name)
        fields = requests.fleet_fields(r, name=name, etag=requests.etag(r, fleet.changed if fleet else 1))
        mask = requests.mask(r, ["labels", "default_placement_strategy", "default_ttl", "max_ttl"])
        self.check("UpdateFleet", admin_pb.UpdateFleetRequest(fleet=fields, update_mask=mask))

    @rule(r=Choices)
    def delete_a_fleet(self, r: Random) -> None:
        name = r.choice(["fleets/gpu", "fleets/cpu.2", "fleets/cpu.2", "fleets/ghost"])
        fleet = self._fleet(name)
        guard = requests.etag(r, fleet.changed if fleet else 1)
        force = name != "fleets/gpu" and bool(r.randrange(2))
        self.check("DeleteFleet", admin_pb.DeleteFleetRequest(name=name, etag=guard, force=force))
        if name == "fleets/gpu" and r.randrange(4):
            self.check("CreateFleet", admin_pb.CreateFleetRequest(fleet_id="gpu"))

    @rule(r=Choices)
    def create_an_instance(self, r: Random) -> None:
        self.check("CreateInstance", requests.create_instance(r, self._some_fleet(r), r.choice(requests.INSTANCES)))

    @rule(r=Choices)
    def update_an_instance(self, r: Random) -> None:
        name, guard = self._instance(r)
        if r.randrange(2):
            fields = requests.instance_fields(r, name=name, etag=guard, total_blocks=r.choice(requests.TOTALS))
        else:
            fields = resources_pb2.Instance(name=name, etag=guard, total_blocks=r.choice(requests.TOTALS))
        mask = requests.mask(r, ["total_blocks", "labels", "resources", "state"])
        self.check("UpdateInstance", admin_pb.UpdateInstanceRequest(instance=fields, update_mask=mask))

    @rule(r=Choices)
    def delete_an_instance(self, r: Random) -> None:
        name, guard = self._instance(r)
        self.check("DeleteInstance", admin_pb.DeleteInstanceRequest(name=name, etag=guard))

    @rule(r=Choices)
    def cordon_an_instance(self, r: Random) -> None:
        name, guard = self._instance(r)
        self.check("CordonInstance", admin_pb.CordonInstanceRequest(name=name, etag=guard))

    @rule(r=Choices)
    def uncordon_an_instance(self, r: Random) -> None:
        name, guard = self._instance(r)
        self.check("UncordonInstance", admin_pb.UncordonInstanceRequest(name=name, etag=guard))

    def _instance(self, r: Random) -> tuple[str, str | None]:
        """Its name, and a guard for a change of it."""
        name = self._some_instance(r, self._some_fleet(r))
        fleet = self._fleet(name)
        instance = fleet.instances.get(name.split("/")[3]) if fleet else None
        return name, requests.etag(r, instance.changed if instance else 1)

    # What is asked.

    @rule(r=Choices)
    def describe(self, r: Random) -> None:
        view = r.choice([pb.DESCRIBE_VIEW_UNSPECIFIED, pb.BASIC, pb.FULL])
        request = pb.DescribeRequest(fleet=self._some_fleet(r), view=view, page_size=r.choice([0, 1, 2, 3]))
        self.check("Describe", request)

    @rule(r=Choices)
    def get_something(self, r: Random) -> None:
        name = self._some_fleet(r)
        match r.choice(["fleet", "instance", "allocation", "instances", "fleets", "verify"]):
            case "fleets":
                self.check("ListFleets", admin_pb.ListFleetsRequest(page_size=1))
            case "verify":
                self.check("Verify", ledger_pb2.VerifyRequest(fleet=name))
            case "fleet":
                self.check("GetFleet", admin_pb.GetFleetRequest(name=name))
            case "instance":
                self.check("GetInstance", admin_pb.GetInstanceRequest(name=self._some_instance(r, name)))
            case "allocation":
                allocation = requests.allocation_name(r, self._fleet(name), name)
                self.check("GetAllocation", pb.GetAllocationRequest(name=allocation))
            case _:
                size = r.choice([0, 1, 2])
                self.check("ListInstances", admin_pb.ListInstancesRequest(parent=name, page_size=size))

    @rule(r=Choices)
    def list_allocations(self, r: Random) -> None:
        name = self._some_fleet(r)
        request = pb.ListAllocationsRequest(
            parent=name,
            page_size=r.choice([0, 1, 2, 5]),
            holder=r.choice([None, *requests.HOLDERS]),
            state=r.choice([None, None, 1, 2, 3]),  # type: ignore[arg-type]  # an enum's number
            instance=r.choice([None, self._some_instance(r, name)]),
        )
        self.check("ListAllocations", request)

    @rule(r=Choices)
    def list_events(self, r: Random) -> None:
        name = self._some_fleet(r)
        fleet = self._fleet(name)
        revision = fleet.revision if fleet else 0
        request = ledger_pb2.ListEventsRequest(
            parent=name,
            page_size=r.choice([0, 7]),
            from_revision=r.choice([0, 1, max(revision - 8, 0), revision, revision + 1]),
            kinds=r.sample(list(range(1, 14)), k=r.choice([0, 0, 1, 3])),  # type: ignore[arg-type]  # enums' numbers
            holder=r.choice([None, None, *requests.HOLDERS]),
            instance=r.choice([None, self._some_instance(r, name)]),
        )
        self.check("ListEvents", request)

    @rule(r=Choices)
    def ask_what_is_malformed(self, r: Random) -> None:
        """The fields are named, and nothing changes: the comparisons to come show that."""
        rpc, request, fields = r.choice(MALFORMED)
        _, error = self.sides.world.call(rpc, request)
        note(f"{rpc} {plain(request)} -> {error}")
        assert error == Refusal("INVALID_REQUEST", *fields).plain

    # What happens by itself.

    @rule(r=Choices)
    def time_passes(self, r: Random) -> None:
        self._let_time_pass(r)

    @rule(r=Choices)
    def time_passes_or_the_server_does_something(self, r: Random) -> None:
        match r.choice(["time", "sweep", "restart"]):
            case "sweep":
                note("the sweeper works")
                self.sides.sweep_round()
            case "restart":
                note("the server restarts")
                self.sides.restart()
            case _:
                self._let_time_pass(r)

    def _let_time_pass(self, r: Random) -> None:
        """A little or a lot, or up to just before, exactly to, or just past the end of a lease or of a retention."""
        ahead = [0, 1, 50_000, 1_000_000, 5_000_000, 30_000_000, 650_000_000]
        model = self.sides.model
        for fleet in model.fleets.values():
            ends = [a.expire_time for a in fleet.allocations.values() if a.state == "HELD"]
            moments = [at for at in ends if at is not None]
            for retention in (model.retention, model.journal_retention):
                left = [age + retention - fleet.age for age, _ in fleet.marks]
                moments += [(fleet.looked or model.now) + -(-still * 1000 // 999) for still in left]
            ahead += [at - model.now + by for at in moments if at > model.now for by in (-1, 0, 1)]
        by = r.choice(ahead if r.randrange(4) else ahead[:5])
        note(f"{by} us pass")
        self.sides.advance(by)
