"""Mutants that let somebody do, or see, what only another role or another tenant may."""

from typing import Final

from tests.fault.mutant import Edit, Mutant

VERDICTS: Final = "tests/rpc/test_authorization.py::test_each_role_may_do_what_the_table_says"
VISIBILITY: Final = "tests/rpc/test_visibility.py"
BUSY: Final = f"{VISIBILITY}::test_others_blocks_are_seen_to_be_busy"
NOT_WHOSE: Final = f"{VISIBILITY}::test_what_becomes_of_others_allocations_is_told_and_not_whose_they_are"
NO_TOKENS: Final = f"{VISIBILITY}::test_who_may_see_holders_sees_no_tokens"

RIGHTS_OF_TENANTS: Final[dict[str, Mutant]] = {
    # What the table of verdicts sees.
    "lets whoever reads acquire": Mutant(
        "each method needs its own permission",
        (
            Edit(
                "rpc/authorization.py",
                '"blockyard.v1.Allocator.Acquire": Rule(Permission.ACQUIRE, ("fleet",))',
                '"blockyard.v1.Allocator.Acquire": Rule(Permission.READ, ("fleet",))',
            ),
        ),
        (f"{VERDICTS}[Acquire]",),
    ),
    "asks for no permission inside of a batch": Mutant(
        "each operation of a batch needs its permission",
        (Edit("rpc/allocator.py", "expect_permitted(principal, Permission.ACQUIRE, fleet)", "pass"),),
        (f"{VERDICTS}[Batch of acquires]",),
    ),
    "lets anybody release": Mutant(
        "who may not release for others does not",
        (
            Edit(
                "domain/release.py",
                "if request.actor is None or not request.actor.may_release_any:",
                "if request.actor is None:",
            ),
        ),
        (f"{VERDICTS}[Release]",),
    ),
    "searches by holder for anybody": Mutant(
        "an answer to a search by holder tells who holds something",
        (Edit("rpc/visibility.py", "if where.holder is None or self.is_whole or self._sees_holders:", "if where:"),),
        (f"{VERDICTS}[ListEvents]",),
    ),
    "finds the allocations of others": Mutant(
        "another tenant's allocation is not found",
        (
            Edit(
                "rpc/visibility.py",
                "        if not self._sees_holders:\n            raise allocation_not_found",
                "        if False:\n            raise allocation_not_found",
            ),
        ),
        (f"{VERDICTS}[GetAllocation]",),
    ),
    "lists fleets that may not be read": Mutant(
        "a list of fleets tells nothing of the others",
        (Edit("rpc/visibility.py", " if Permission.READ in principal.policy.on(record.fleet)]", "]"),),
        ("tests/rpc/test_authorization.py::test_a_list_of_fleets_shows_those_that_may_be_read",),
    ),
    # What is hidden in an answer that is given.
    "describes whose the blocks are": Mutant(
        "others' blocks are held by nobody in particular",
        (Edit("rpc/visibility.py", "replace(hold, holder=HIDDEN)", "hold"),),
        (BUSY,),
    ),
    "tells to whom others' blocks were granted": Mutant(
        "a GRANTED event of others has no holder",
        (Edit("rpc/visibility.py", "event = replace(event, holder=HIDDEN, annotations={})", "pass"),),
        (BUSY,),
    ),
    "tells who has released": Mutant(
        "no later event of others has a holder",
        (
            Edit(
                "rpc/visibility.py",
                "event = replace(event, holder=HIDDEN, actor=HIDDEN, via=HIDDEN)",
                "event = replace(event, actor=HIDDEN, via=HIDDEN)",
            ),
        ),
        (NOT_WHOSE,),
    ),
    "shows others' allocations with their tokens": Mutant(
        "with a token an allocation is found and released: its own tenant alone sees it",
        (Edit("rpc/visibility.py", "return allocation._replace(token=HIDDEN)", "return allocation"),),
        (NO_TOKENS,),
    ),
    "shows others' events with their tokens": Mutant(
        "the same in the journal",
        (Edit("rpc/visibility.py", "event = replace(event, token=HIDDEN)", "pass"),),
        (NO_TOKENS,),
    ),
}
