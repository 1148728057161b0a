"""Every RPC, by every role, on what the own tenant has and on what another one has: the verdicts, as a table."""

from base64 import urlsafe_b64decode
from dataclasses import replace
from typing import Final

import pytest

from blockyard.v1 import access_pb2, fleet_admin_pb2
from blockyard_server.domain.policy import Role
from blockyard_server.rpc.authorization import RULES
from blockyard_server.rpc.server import build_server
from tests.rpc.answers import answer
from tests.rpc.fake_service import FakeService
from tests.rpc.legal_input import OK
from tests.rpc.principals import knowing, principal
from tests.rpc.test_bad_input import METHODS
from tests.rpc.well_formed import REQUESTS, make_world
from tests.rpc.wire import acquire_request, refusal_of

VERDICTS: Final = {
    "+": OK,
    "-": "NOT_PERMITTED",
    "o": "NOT_OWNER",
    "?": "ALLOCATION_NOT_FOUND",
    "c": OK,  # for another tenant's token: a token of the own tenant is cancelled, and theirs is not touched
}
TABLE: Final = """
                            viewer  auditor  scheduler  operator  admin
Acquire                     - -     - -      + +        + +       + +
Acquire by requirements     - -     - -      + +        + +       + +
Acquire exclusively         - -     - -      + +        + +       + +
Release                     - -     - -      + o        + +       + +
Release by token            - -     - -      + c        + c       + c
Renew                       - -     - -      + o        + o       + o
Describe                    + +     + +      + +        + +       + +
GetAllocation               + ?     + +      + ?        + +       + +
ListAllocations             + +     + +      + +        + +       + +
Batch of acquires           - -     - -      + +        + +       + +
Batch of releases           - -     - -      + o        + +       + +
Batch of renewals           - -     - -      + o        + o       + o
Watch                       - -     + +      - -        + +       + +
CreateFleet                 - -     - -      - -        - -       + +
GetFleet                    + +     + +      + +        + +       + +
ListFleets                  + +     + +      + +        + +       + +
UpdateFleet                 - -     - -      - -        - -       + +
DeleteFleet                 - -     - -      - -        - -       + +
CreateInstance              - -     - -      - -        + +       + +
GetInstance                 + +     + +      + +        + +       + +
ListInstances               + +     + +      + +        + +       + +
UpdateInstance              - -     - -      - -        + +       + +
DeleteInstance              - -     - -      - -        + +       + +
CordonInstance              - -     - -      - -        + +       + +
UncordonInstance            - -     - -      - -        + +       + +
ListEvents                  - -     + +      - -        + +       + +
Verify                      - -     + +      - -        + +       + +
Repair                      - -     - -      - -        - -       + +
WhoAmI                      + +     + +      + +        + +       + +
CanI                        + +     + +      + +        + +       + +
"""
"""For each role two verdicts: the allocation in question is the own tenant's, and another tenant's.

Watch and ListEvents are asked here for the events of one holder, which takes READ_HOLDERS; without that filter
everybody may ask who may READ.
"""
ROLES: Final = TABLE.split("\n")[1].split()
ROWS: Final = {line[:28].strip(): line[28:].split() for line in TABLE.strip("\n").split("\n")[1:]}
ALLOWED_ELSEWHERE: Final = {"ListFleets", "WhoAmI", "CanI"}


async def test_every_method_of_the_server_has_a_rule() -> None:
    registered = set(build_server(FakeService()).methods.names)

    assert registered == set(RULES)


def test_the_table_has_every_role_and_every_request() -> None:
    assert [role.value for role in Role] == ROLES
    assert set(ROWS) == set(REQUESTS)
    assert {request_.split()[0] for request_ in ROWS} == set(METHODS)
    assert all(len(verdicts) == 2 * len(ROLES) for verdicts in ROWS.values())


@pytest.mark.parametrize("request_", REQUESTS)
async def test_each_role_may_do_what_the_table_says(request_: str) -> None:
    principals = {f"{role}-{tenant}": principal(Role(role), tenant=tenant) for role in ROLES for tenant in ("t1", "t2")}
    found: list[str] = []
    async with knowing(FakeService(), {**principals, "builder": principal(Role.ADMIN, tenant="t1")}) as server:
        builder = await server.client("builder")
        for role in ROLES:
            for tenant in ("t1", "t2"):
                world = await make_world(builder, f"{role}-{tenant}")
                client = await server.client(f"{role}-{tenant}")
                found.append((await answer(client, request_, REQUESTS[request_](world))).reason)

    assert found == [VERDICTS[verdict] for verdict in ROWS[request_]]


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_role_on_some_fleets_is_none_on_the_others(request_: str) -> None:
    """Whatever the role: it is the fleet of the request that counts, and its name is known before anything is said."""
    principals = {
        "builder": principal(Role.ADMIN),
        "here": principal(Role.ADMIN, fleets="world*"),
        "elsewhere": principal(Role.ADMIN, fleets="others-*"),
    }
    async with knowing(FakeService(), principals) as server:
        world = await make_world(await server.client("builder"), "world")
        given = {
            name: (await answer(await server.client(name), request_, REQUESTS[request_](world))).reason
            for name in ("elsewhere", "here")
        }

    assert given == {"elsewhere": OK if request_ in ALLOWED_ELSEWHERE else "NOT_PERMITTED", "here": OK}


async def test_a_refusal_names_the_permission_the_fleet_and_the_principal() -> None:
    async with knowing(FakeService(), {"viewer": principal(Role.VIEWER)}) as server:
        refusal = await refusal_of((await server.client("viewer")).allocator.Acquire(acquire_request()))

    assert refusal.reason == "NOT_PERMITTED"
    assert refusal.metadata == {"permission": "ACQUIRE", "fleet": "fleets/gpu", "principal": "viewer-of-t1"}


async def test_a_list_of_fleets_shows_those_that_may_be_read() -> None:
    some = principal(Role.VIEWER, fleets="world")
    async with knowing(FakeService(), {"builder": principal(Role.ADMIN), "some": some}) as server:
        await make_world(await server.client("builder"), "world")
        listed = await (await server.client("some")).admin.ListFleets(fleet_admin_pb2.ListFleetsRequest())

    assert [fleet.name for fleet in listed.fleets] == ["fleets/world"]


async def test_a_list_of_fleets_tells_nothing_of_the_others_not_even_where_a_page_ends() -> None:
    some = principal(Role.VIEWER, fleets="seen-*")
    async with knowing(FakeService(), {"builder": principal(Role.ADMIN), "some": some}) as server:
        builder, client = await server.client("builder"), await server.client("some")
        for name in ("a-secret", "seen-1", "seen-2", "seen-3", "z-secret"):
            await builder.make_fleet(name)
        request = fleet_admin_pb2.ListFleetsRequest(page_size=1)
        listed, tokens = [], []
        while True:
            page = await client.admin.ListFleets(request)
            listed.append([fleet.name for fleet in page.fleets])
            if not page.next_page_token:
                break
            tokens.append(urlsafe_b64decode(page.next_page_token))
            request.page_token = page.next_page_token

    assert listed == [["fleets/seen-1"], ["fleets/seen-2"], ["fleets/seen-3"]]
    assert not [token for token in tokens if b"secret" in token]


async def test_credentials_that_end_in_another_era_are_told_to_end_with_this_one() -> None:
    """The latest that a Timestamp can say is the last second of the year 9999."""
    late = replace(principal(Role.VIEWER), expires_s=1e12)
    async with knowing(FakeService(), {"late": late}) as server:
        me = await (await server.client("late")).access.WhoAmI(access_pb2.WhoAmIRequest())

    assert me.expire_time.ToJsonString() == "9999-12-31T23:59:59Z"


async def test_a_request_that_names_no_fleet_is_about_none() -> None:
    async with knowing(FakeService(), {"admin": principal(Role.ADMIN)}) as server:
        client = await server.client("admin")
        refusal = await refusal_of(client.admin.GetFleet(fleet_admin_pb2.GetFleetRequest(name="fleets/")))

    assert refusal.reason == "INVALID_REQUEST"


async def test_who_am_i_and_can_i_say_what_the_server_takes_the_caller_for() -> None:
    async with knowing(FakeService(), {"sched": principal(Role.SCHEDULER, tenant="train", fleets="gpu-*")}) as server:
        access = (await server.client("sched")).access
        me = await access.WhoAmI(access_pb2.WhoAmIRequest())
        may = {
            (name, fleet): (
                await access.CanI(
                    access_pb2.CanIRequest(permission=access_pb2.Permission.Value(name), fleet=f"fleets/{fleet}")
                )
            ).permitted
            for name in ("ACQUIRE", "RELEASE_ANY")
            for fleet in ("gpu-1", "cpu-1")
        }

    assert (me.principal, me.tenant, me.via) == ("scheduler-of-train", "train", "token:test")
    assert [(grant.role, list(grant.fleets)) for grant in me.grants] == [("scheduler", ["gpu-*"])]
    assert {asked for asked, permitted in may.items() if permitted} == {("ACQUIRE", "gpu-1")}
