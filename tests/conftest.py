"""The suite means the same wherever it is started."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Final

import pytest
from hypothesis import settings

from tests.harness.deployments import UNCLAIMED, Deployment, deployed
from tests.harness.models import copied_database
from tests.harness.postgres import Postgres, Release, usual_release

# Programs are started as other users, which forks, and gRPC's own handlers of a fork wait for all of its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# No test compares a time: hypothesis would fail an example that takes longer than 200 ms.
settings.register_profile("blockyard", deadline=None)
settings.load_profile("blockyard")

PostgresOf = Callable[[Release], Postgres]

PASSED_ON_TO_CHILDREN = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_foreground() -> Iterator[None]:
    """A background job and nohup ignore these, and every child inherits that: a test's Ctrl-C would do nothing."""
    ignored = [number for number in PASSED_ON_TO_CHILDREN if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def postgres_of() -> Iterator[PostgresOf]:
    """One PostgreSQL of each release for all tests of a process. A test that kills or configures it makes its own.

    Skips the test, with the reason in the summary, where the release is not installed.
    """
    with ExitStack() as stack:

        @cache
        def started(release: Release) -> Postgres:
            return stack.enter_context(Postgres(release=release))

        def running(release: Release) -> Postgres:
            if release.programs is None:
                pytest.skip(f"PostgreSQL {release.major} is not installed: {release.missing}")
            return started(release)

        yield running


@pytest.fixture(scope="session")
def postgres(postgres_of: PostgresOf) -> Postgres:
    """The newest release."""
    return postgres_of(usual_release())


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL, which goes with the test."""
    url = postgres.fresh_database()
    yield url
    postgres.drop(url)


DEPLOYMENTS: Final = {"sqlite": 1, "postgres": 1, "postgres, three servers": 3}
"""How many servers each has."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked `every_deployment` runs on each."""
    if metafunc.definition.get_closest_marker("every_deployment"):
        # What holds on PostgreSQL with three servers nearly always holds with one: `make test-slow` has that.
        metafunc.parametrize(
            "deployment",
            [pytest.param(name, marks=pytest.mark.slow) if name == "postgres" else name for name in DEPLOYMENTS],
            indirect=True,
        )


@pytest.fixture(autouse=True)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """What `serving` serves from while the test runs. A test that is marked fails if it was not what it claims.

    Every test uses it, before its other fixtures: pytest drops a fixture that `pytest_generate_tests` adds by itself.
    """
    claimed: str | None = getattr(request, "param", None)
    is_marked = request.node.get_closest_marker("every_deployment") is not None
    assert is_marked == (claimed is not None), "a marked test has no deployment, or one that has is not marked"
    if claimed is None:
        yield UNCLAIMED
        return
    if claimed == "sqlite":
        with deployed(Deployment(DEPLOYMENTS[claimed])) as chosen:
            yield chosen
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    chosen = Deployment(DEPLOYMENTS[claimed], lambda: copied_database(postgres))
    try:
        with deployed(chosen):
            yield chosen
    finally:
        for url in chosen.databases():
            postgres.drop(url)
