"""The suite means the same wherever it is started."""

import signal
from collections.abc import Iterator

import pytest

from tests.harness.postgres import Postgres

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
