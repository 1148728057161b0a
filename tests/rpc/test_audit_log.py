"""The audit log has what the journal cannot have: what was denied, and what operators did and looked at."""

import json

import pytest

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import ledger_pb2
from blockyard_server.domain.errors import NotPermitted
from blockyard_server.domain.policy import Role
from blockyard_server.rpc.audit_log import LOGGER, MAX_DENIALS_PER_S, AuditLog
from blockyard_server.rpc.auth.principal import set_principal
from tests.rpc.fake_service import FakeService
from tests.rpc.principals import knowing, principal
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

OPERATOR = principal(Role.OPERATOR, tenant="ops")
ADMIN = principal(Role.ADMIN, tenant="ops")
SCHEDULER = principal(Role.SCHEDULER, tenant="train")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(record.message) for record in caplog.records if record.name == LOGGER]


async def test_denials_and_what_operators_do_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", LOGGER)
    async with knowing(FakeService(), {"admin": ADMIN, "operator": OPERATOR, "scheduler": SCHEDULER}) as server:
        admin, scheduler = await server.client("admin"), await server.client("scheduler")
        await admin.make_fleet("gpu", "n1")
        grant = await admin.allocator.Acquire(acquire_request())
        await admin.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/gpu"))
        caplog.clear()
        await refusal_of(scheduler.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/gpu")))
        release = pb.ReleaseRequest(name=grant.allocation.name)
        await refusal_of(scheduler.allocator.Release(release))
        await scheduler.allocator.Batch(pb.BatchRequest(operations=[pb.BatchOperation(release=release)]))
        denied = lines(caplog)

    who = {"principal": "train/scheduler-of-train", "via": "token:test"}
    owner = {"event": "denied", "reason": "NOT_OWNER", "allocation": grant.allocation.name, "tenant": "train", **who}
    assert denied == [
        {
            "event": "denied",
            "rpc": "Verify",
            "reason": "NOT_PERMITTED",
            "permission": "VERIFY",
            "fleet": "fleets/gpu",
            **who,
        },
        {**owner, "rpc": "Release"},
        {**owner, "rpc": "Batch"},
    ]


async def test_what_operators_change_and_compare_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", LOGGER)
    async with knowing(FakeService(), {"admin": ADMIN}) as server:
        admin = await server.client("admin")
        await admin.make_fleet("gpu", "n1")
        await admin.allocator.Acquire(acquire_request())
        await admin.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/gpu"))
        await admin.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent="fleets/gpu"))

    assert [(line["event"], line["rpc"], line["principal"]) for line in lines(caplog)] == [
        ("done", rpc, "ops/admin-of-ops") for rpc in ("CreateFleet", "CreateInstance", "Verify")
    ]


async def test_without_identities_there_is_no_line(blockyard: Blockyard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", LOGGER)
    await blockyard.make_fleet("gpu", "n1")

    assert not lines(caplog)


async def test_a_flood_of_denials_is_counted_and_not_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", LOGGER)
    now_s, log = [100.0], AuditLog(lambda: now_s[0])
    refusal = NotPermitted("no", permission="VERIFY", fleet="fleets/gpu", principal="x")
    for name in ("one", "two"):
        set_principal(principal(Role.VIEWER, tenant=name))
        for _ in range(MAX_DENIALS_PER_S + (7 if name == "one" else 0)):
            log.note_denial("Verify", refusal)
    now_s[0] += 1
    log.note_denial("Verify", refusal)

    assert [line["event"] for line in lines(caplog)] == [*["denied"] * 2 * MAX_DENIALS_PER_S, "denied_more", "denied"]
    assert [(line["principal"], line["times"]) for line in lines(caplog) if line["event"] == "denied_more"] == [
        ("one/viewer-of-one", 7)
    ]
    assert log.denied == {"VERIFY": 2 * MAX_DENIALS_PER_S + 8}
