"""Mutants in which one tenant takes what is another's: turns, places, rates, the disk."""

from typing import Final

from tests.fault.mutant import Edit, Mutant

FLOOD: Final = "tests/race/test_flood.py"
TENANTS: Final = "tests/unit/test_tenants.py"
RATES: Final = "tests/rpc/test_rates.py"
QUOTAS: Final = "tests/unit/test_quotas.py"

PROOFS_OF_FAIRNESS: Final[dict[str, Mutant]] = {
    "takes all tenants for one": Mutant(
        "tenants take turns",
        (Edit("engine/fair_queue.py", "key = (entry.urgency, entry.asker.tenant)", 'key = (entry.urgency, "")'),),
        (f"{FLOOD}::test_on_the_same_fleet_the_next_batch_has_a_place_for_everybody",),
    ),
    "gives each fleet of a flood a share": Mutant(
        "a tenant has one share, on however many fleets it asks",
        (Edit("engine/fair_queue.py", "self.path = (*key, fleet)", "self.path = (key[0], fleet, fleet)"),),
        (f"{FLOOD}::test_a_flood_on_many_fleets_is_one_tenants_flood",),
    ),
    "lets a flood fill the queue": Mutant(
        "a tenant leaves places to others",
        (Edit("engine/waiting_room.py", "if own >= free and (", "if free <= 0 and ("),),
        (f"{TENANTS}::test_beside_others_a_tenant_has_as_many_places_as_it_leaves_free",),
    ),
    "lets a release overtake its acquire": Mutant(
        "the operations of a batch keep their order",
        (Edit("engine/engine.py", "urgency=urgency, ", ""),),
        (f"{TENANTS}::test_the_requests_of_one_call_keep_their_order_however_many_wait",),
    ),
    "lets acquires pass in the class of a renewal": Mutant(
        "a batch has the class of its least urgent operation",
        (
            Edit(
                "engine/asker.py",
                "if urgency > urgencies.get(request.fleet, -1):",
                "if urgency < urgencies.get(request.fleet, 9):",
            ),
        ),
        (f"{TENANTS}::test_a_call_has_the_class_of_its_least_urgent_request_on_each_fleet",),
    ),
    "refuses renewals for a rate": Mutant(
        "renewals are never limited",
        (Edit("rpc/prices.py", '"blockyard.v1.Allocator.Renew": _CONTROL', '"blockyard.v1.Allocator.Renew": _CALL'),),
        (f"{RATES}::test_a_lease_is_renewed_and_released_however_much_was_asked_for",),
    ),
    "charges nobody who is denied": Mutant(
        "whoever may not ask may not ask more often",
        (
            Edit(
                "rpc/methods.py",
                "            places = enter(request)  # before the check",
                "            check(request)\n            places = enter(request)  #",
            ),
        ),
        (f"{RATES}::test_whoever_may_not_ask_may_not_ask_more_often",),
    ),
    "has a quota for each namespace": Mutant(
        "the namespaces of a tenant count together",
        (Edit("domain/quotas.py", "return caller.partition(SEPARATOR)[0]", "return caller"),),
        (f"{QUOTAS}::test_the_namespaces_of_a_tenant_count_together_and_an_adopted_caller_by_itself",),
    ),
}
