"""Where the lines of the audit log go: to stderr, each a JSON object, by a thread that no call waits for.

A device that is full or blocked must not stop the service. Lines that find no room are dropped, and counted.
"""

import logging
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from typing import Final

from typing_extensions import override

from blockyard_server.rpc.audit_log import LOGGER

MAX_WAITING_LINES: Final = 10_000


class AuditOutput(QueueHandler):
    """Hands lines over to the thread that writes them."""

    def __init__(self, waiting: int = MAX_WAITING_LINES) -> None:
        super().__init__(queue.Queue(waiting))
        self.dropped = 0
        """Lines that found no room."""

    @override
    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


def dropped_lines() -> int:
    """Lines of this process that found no room."""
    return sum(each.dropped for each in logging.getLogger(LOGGER).handlers if isinstance(each, AuditOutput))


@contextmanager
def audit_lines_on_stderr() -> Iterator[AuditOutput]:
    """Writes the audit log while the block runs, and what waits at its end."""
    logger, output = logging.getLogger(LOGGER), AuditOutput()
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter("%(message)s"))
    listener = QueueListener(output.queue, stream)
    logger.addHandler(output)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    listener.start()
    try:
        yield output
    finally:
        logger.removeHandler(output)
        logger.propagate = True
        listener.stop()
