"""Who belongs to a command, and who is spared."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from blockyard.cli.process_tree import _look
from tests.cli.processes import is_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_process_is_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    found = _look(sleeper.pid)
    assert found is not None
    assert found.parent == os.getpid()

    found.send(signal.SIGTERM)

    assert sleeper.wait() == -signal.SIGTERM


def test_another_process_that_has_got_its_number_since_is_not(sleeper: "subprocess.Popen[bytes]") -> None:
    found = _look(sleeper.pid)
    assert found is not None

    replace(found, started=found.started - 1).send(signal.SIGKILL)

    assert is_running(sleeper.pid)


def test_a_process_is_found_whatever_its_name_is() -> None:
    script = "import sys; open('/proc/self/comm', 'w').write(') R 1 (x'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()

        found = _look(odd.pid)

    assert found is not None
    assert found.parent == os.getpid()


def test_a_process_that_is_gone_is_none(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    sleeper.wait()

    assert _look(sleeper.pid) is None
