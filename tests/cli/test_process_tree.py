"""Who belongs to a command, and who is spared."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from blockyard.cli.linux_calls import adopt_orphans
from blockyard.cli.process_tree import ProcessTree, _look, own_children
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


@pytest.mark.parametrize("refusal", [PermissionError, OSError, AttributeError])
def test_where_the_system_has_no_handles_a_process_is_signalled_all_the_same(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]
) -> None:
    """Linux before 5.3, or a container that does not allow the call."""

    def refuse(_pid: int) -> int:
        raise refusal

    monkeypatch.setattr(os, "pidfd_open", refuse)
    found = _look(sleeper.pid)
    assert found is not None

    found.send(signal.SIGTERM)

    assert sleeper.wait() == -signal.SIGTERM


def test_children_from_before_are_no_part_of_the_command(sleeper: "subprocess.Popen[bytes]") -> None:
    """As in `sidecar & exec blockyard run …`."""
    tree = ProcessTree(earlier_children=own_children())
    try:
        with subprocess.Popen(["sleep", "1000"]) as part:
            assert tree.count() == 1
            assert not tree.is_gone()
            tree.kill()
            assert part.wait() == -signal.SIGKILL
        assert tree.is_gone()
        assert is_running(sleeper.pid)
    finally:
        adopt_orphans(wanted=False)


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
