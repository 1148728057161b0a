"""Answers that did not get through, counted: gRPC writes an error with a traceback to the log for each.

A client that goes away at the wrong moment causes one, so clients could fill the log.
"""

import logging
from typing import Final

GRPC_LOGGER: Final = "grpc._cython.cygrpc"
ERROR_NAME: Final = "ExecuteBatchError"
"""What gRPC raises if an answer, or a part of one, cannot be sent. It has no public name."""


class LostAnswers(logging.Filter):
    """Takes these records out of gRPC's log and counts them. For the whole process, as the log is."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def install(self) -> None:
        """Begins to count; once is enough."""
        logging.getLogger(GRPC_LOGGER).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        error = record.exc_info[0] if record.exc_info else None
        if error is None or error.__name__ != ERROR_NAME:
            return True
        self.count += 1
        return False


LOST_ANSWERS: Final = LostAnswers()
