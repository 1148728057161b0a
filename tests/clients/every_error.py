"""Shows a real client every error that there is, and checks that it sees all of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

import pytest

from blockyard.reasons import DOMAIN, REASONS, Reason
from tests.clients.faults import FAULTS, SETTINGS
from tests.clients.real_client import RealClient
from tests.clients.refusals import REFUSALS
from tests.clients.stage import Stage
from tests.docs.test_errors_page import values_of_the_proto
from tests.harness.process import ServerProcess

Connect = Callable[[str], AbstractContextManager[RealClient]]
"""Makes a client for an address."""

DOCUMENTED: Final = {value.reason: value.metadata for value in values_of_the_proto()}
"""The metadata that errors.proto promises, by reason."""

assert not REFUSALS.keys() & FAULTS.keys(), "a reason has two stories"
STORIES: Final = REFUSALS | FAULTS
NOT_YET: Final = {
    Reason.FLEET_FORMAT_TOO_OLD: "no kind of event needs a format above the first; see tests/unit/test_formats.py",
    **dict.fromkeys(
        (
            Reason.UNAUTHENTICATED,
            Reason.CREDENTIALS_EXPIRED,
            Reason.NOT_PERMITTED,
            Reason.NOT_OWNER,
            Reason.RATE_LIMITED,
        ),
        "only a server with an auth file says so; see tests/auth and tests/rpc/test_identity.py",
    ),
}
"""Reasons that no client of these servers can meet."""
SHOWN: Final = [reason for reason in REASONS if reason not in NOT_YET]
"""All others can be provoked from outside: a test asks for each."""
assert STORIES.keys() == set(SHOWN), "a reason has no story"
LONG: Final = {Reason.WATCHER_TOO_SLOW, Reason.STORE_UNAVAILABLE}
"""Reasons that only come after a bound of many seconds: `make test-slow` has them."""
BY_REASON: Final = [pytest.param(reason, marks=pytest.mark.slow) if reason in LONG else reason for reason in SHOWN]
"""The parameters of a client's test."""


def check_error(reason: Reason, connect: Connect, server: ServerProcess, folder: Path) -> None:
    """Tells the reason's story, on the given server or, if it spoils that, on one in `folder`."""
    with ExitStack() as stack:
        if reason in FAULTS:
            server = stack.enter_context(ServerProcess(folder, **SETTINGS.get(reason, {})))
            server.start()
        stage = Stage(stack.enter_context(connect(server.address)), server)
        stage.build()
        seen = STORIES[reason](stage)

    refusal, info = seen.refusal, seen.refusal.error_info
    metadata = info.get("metadata", {})
    assert (refusal.status, info["reason"], info["domain"]) == (REASONS[reason].status, reason.value, DOMAIN)
    assert refusal.message
    assert seen.metadata.items() <= metadata.items()
    assert DOCUMENTED[reason.value] <= metadata.keys()
    assert refusal.details[0]["@type"] == "google.rpc.ErrorInfo"
    assert [detail["@type"] for detail in refusal.other_details] == ([seen.detail] if seen.detail else [])
    assert all(len(detail) > 1 for detail in refusal.other_details), "a detail says nothing"
