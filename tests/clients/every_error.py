"""Shows a real client every error that there is, and checks that it sees all of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from blockyard.reasons import DOMAIN, REASONS, Reason
from tests.clients.faults import FAULTS, SETTINGS
from tests.clients.identities import ADMIN, IDENTITIES, write_auth_file
from tests.clients.real_client import RealClient
from tests.clients.refusals import REFUSALS
from tests.clients.stage import Stage
from tests.docs.test_errors_page import values_of_the_proto
from tests.harness.process import ServerProcess

Connect = Callable[[str], AbstractContextManager[RealClient]]
"""Makes a client for an address."""

DOCUMENTED: Final = {value.reason: value.metadata for value in values_of_the_proto()}
"""The metadata that errors.proto promises, by reason."""

STORIES: Final = REFUSALS | FAULTS | IDENTITIES
assert len(STORIES) == len(REFUSALS) + len(FAULTS) + len(IDENTITIES), "a reason has two stories"
UNMET: Final = Reason.FLEET_FORMAT_TOO_OLD
"""No client of these servers can meet it: no kind of event needs a format above the first; tests/unit/test_formats.py
has it."""
SHOWN: Final = [reason for reason in REASONS if reason != UNMET]
"""All others can be provoked from outside: a test asks for each."""
assert STORIES.keys() == set(SHOWN), "a reason has no story"
LONG: Final = {Reason.WATCHER_TOO_SLOW, Reason.STORE_UNAVAILABLE, Reason.CREDENTIALS_EXPIRED}
"""Reasons that only come after a bound of many seconds: `make test-slow` has them."""
BY_REASON: Final = [pytest.param(reason, marks=pytest.mark.slow) if reason in LONG else reason for reason in SHOWN]
"""The parameters of a client's test."""


def check_error(reason: Reason, connect: Connect, server: ServerProcess, folder: Path) -> None:
    """Tells the reason's story, on the given server or, if that one will not do, on one in `folder`."""
    with ExitStack() as stack:
        if reason not in REFUSALS:
            settings: dict[str, Any] = {**SETTINGS.get(reason, {})}
            if reason in IDENTITIES:
                settings["auth_file"] = folder / "auth.toml"
                write_auth_file(folder / "auth.toml")
            server = stack.enter_context(ServerProcess(folder, **settings))
            server.start()
        client = stack.enter_context(connect(server.address))
        stage = Stage(client.with_token(ADMIN.secret) if reason in IDENTITIES else client, server)
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
