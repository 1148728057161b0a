"""The suite means the same wherever it is started."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.harness.deployments import SQLITE, Deployment, deployed
from tests.harness.postgres import Postgres

# Programs are started as other users, which forks, and gRPC's own handlers of a fork wait for all of its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

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
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests of a process. Who kills or configures it makes one of its own."""
    with Postgres() as running:
        yield running


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL, which goes with the test."""
    url = postgres.fresh_database()
    yield url
    postgres.drop(url)


DEPLOYMENTS = ("sqlite", "postgres", "postgres, three servers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked `every_deployment` runs on each."""
    if metafunc.definition.get_closest_marker("every_deployment"):
        metafunc.fixturenames.insert(0, "deployment")  # before those that serve
        metafunc.parametrize("deployment", DEPLOYMENTS, indirect=True)


@pytest.fixture
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """What `serving` serves from while the test runs."""
    if request.param == "sqlite":
        yield SQLITE
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    chosen = Deployment(1 if request.param == "postgres" else 3, postgres.fresh_database)
    with deployed(chosen):
        yield chosen
    for url in chosen.databases():
        postgres.drop(url)
