"""`buf curl`, a real client that speaks both versions of server reflection, finds and calls everything by each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2
from tests.harness.process import ServerProcess

BUF: Final = Path(sys.executable).with_name("buf")
PATIENCE_S: Final = 60
SERVICES: Final[list[Any]] = [
    service
    for module in (access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]

each_version = pytest.mark.parametrize("version", ["v1", "v1alpha"])


def buf_curl(server: ServerProcess, version: str, *arguments: str, path: str = "") -> str:
    """What `buf curl` prints that knows the server's address and this version of reflection, and no other."""
    command = [str(BUF), "curl", "--protocol", "grpc", "--reflect-protocol", f"grpc-{version}", *arguments]
    done = subprocess.run(
        [*command, f"http://{server.address}{path}"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@each_version
def test_every_service_is_found(server: ServerProcess, version: str) -> None:
    assert set(buf_curl(server, version, "--list-services").split()) == {
        *(service.full_name for service in SERVICES),
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@each_version
def test_every_method_is_found(server: ServerProcess, version: str) -> None:
    listed = set(buf_curl(server, version, "--list-methods").split())

    assert {f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods} <= listed


@each_version
def test_a_method_is_called(server: ServerProcess, version: str) -> None:
    fleet_id = f"by-{version}"
    made = buf_curl(
        server, version, "--data", json.dumps({"fleetId": fleet_id}), path="/blockyard.v1.FleetAdmin/CreateFleet"
    )

    assert json.loads(made)["name"] == f"fleets/{fleet_id}"
