"""Supervises one command as `blockyard run` does, without a service. A process of its own: it adopts and kills.

Its only argument is a JSON object; it prints another one.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from blockyard.cli import linux_calls
from blockyard.cli.child import ChildCommand, LeaseGone, Mailbox, Signalled
from blockyard.cli.command_times import CommandTimes
from blockyard.cli.own_cgroup import OwnCgroup
from blockyard.cli.supervision import Supervision


def main(task: dict[str, Any]) -> None:
    mailbox: Mailbox = SimpleQueue()
    if task["powerless"]:
        refuse_signals()
    if task["without_linux"]:
        forget_linux()
    with ChildCommand(mailbox) as child:
        child.start(task["command"], os.environ, CommandTimes(grace_s=task["grace_s"]))
        if task["messages"]:
            Path(os.environ["READY"]).read_text()
        for message in task["messages"]:
            mailbox.put(LeaseGone() if message == "lease gone" else Signalled(signal.Signals(message)))
        outcome = Supervision(child, lease_holds=lambda: True, tell=lambda _: None).run(mailbox)
    sys.stdout.write(json.dumps(asdict(outcome)))


def refuse_signals() -> None:
    """As for processes of another user."""

    def refuse(*_: object) -> None:
        raise PermissionError

    os.killpg = refuse
    signal.pidfd_send_signal = refuse
    OwnCgroup.make = classmethod(lambda _, __: None)  # type: ignore[method-assign,assignment]  # no cgroup either


def forget_linux() -> None:
    """As on a system that has process groups, and nothing more."""
    linux_calls._LIBC = None  # type: ignore[misc]  # it has the only ways to those calls
    OwnCgroup.make = classmethod(lambda _, __: None)  # type: ignore[method-assign,assignment]  # no cgroup either


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
