"""The suite means the same wherever it is started."""

import signal
from collections.abc import Iterator

import pytest

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
