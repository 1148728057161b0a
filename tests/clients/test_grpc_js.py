"""A Node.js program, with grpc-js and the protos of this repository, goes through the API and sees every error."""

import json
import re
import uuid
from pathlib import Path

import pytest

from blockyard.reasons import Reason
from tests.clients import node
from tests.clients.every_error import SHOWN, check_error
from tests.harness.process import ServerProcess

pytestmark = [
    pytest.mark.skipif(node.NPM is None, reason="npm is not installed, so there is no grpc-js to test with"),
    pytest.mark.timeout(2 * node.INSTALL_BOUND_S),
]


@pytest.fixture(scope="module", autouse=True)
def _grpc_js() -> None:
    node.install()


def test_a_node_program_acquires_asks_again_describes_and_releases(server: ServerProcess) -> None:
    fleet_id = f"f-{uuid.uuid4().hex[:12]}"
    done = node.run_script("walkthrough.js", server.address, fleet_id)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"allocation": f"fleets/{fleet_id}/allocations/3", "events": 5}


@pytest.mark.slow  # `make test` shows them all to grpcurl
@pytest.mark.parametrize("reason", SHOWN)
def test_every_error_is_decoded_with_its_reason_and_details(
    reason: Reason, server: ServerProcess, tmp_path: Path
) -> None:
    check_error(reason, node.GrpcJs, server, tmp_path)


def test_the_lock_file_names_no_host_that_packages_come_from() -> None:
    lock_file = (node.FOLDER / "package-lock.json").read_text(encoding="utf-8")

    assert '"integrity"' in lock_file
    assert not re.findall(r'"resolved"|registry', lock_file)
