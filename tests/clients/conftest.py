"""A server process for each module's tests."""

from collections.abc import Iterator

import pytest

from tests.harness.process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for whoever leaves it as it was; every test has a fleet of its own."""
    with ServerProcess(tmp_path_factory.mktemp("data")) as running:
        running.start()
        yield running
