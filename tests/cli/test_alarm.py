"""The guard's timer, on the clock that goes on while a machine is suspended."""

import select
import shutil
import subprocess
import sys

import pytest

from blockyard._clock import lease_now
from blockyard.cli.alarm import Alarm
from blockyard.cli.linux_calls import BootTimer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a timer")

WAIT_WITHOUT_BOUND = (
    "import select\n"
    "from blockyard._clock import lease_now\n"
    "from blockyard.cli.linux_calls import BootTimer\n"
    "timer, poll = BootTimer(), select.poll()\n"
    "poll.register(timer.fd, select.POLLIN)\n"
    "moment = lease_now() + 0.05\n"
    "timer.arm(moment)\n"
    "poll.poll()\n"
    "assert lease_now() >= moment\n"
)


def is_due(timer: BootTimer) -> bool:
    poll = select.poll()
    assert timer.fd is not None
    poll.register(timer.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_it_is_due_from_its_moment_on_and_set_again_it_is_not() -> None:
    timer = BootTimer()

    timer.arm(lease_now() - 1)
    assert is_due(timer)

    timer.arm(lease_now() + 1000)
    assert not is_due(timer)


def test_it_wakes_up_who_waits_and_not_before_its_moment() -> None:
    subprocess.run([sys.executable, "-c", WAIT_WITHOUT_BOUND], check=True)


def test_it_counts_the_time_that_the_machine_has_slept() -> None:
    """In a time namespace whose machine has slept for a day: a timer of the other clock would be due tomorrow."""
    unshare = ["unshare", "--time", "--boottime", "86400"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("this user may make no time namespace here")

    subprocess.run([*unshare, sys.executable, "-c", WAIT_WITHOUT_BOUND], check=True)


def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    Alarm([]).wait(lease_now() - 3600)
