"""Lines of the audit log reach stderr as JSON, and those that find no room are counted, never waited for."""

import json
import logging

import pytest

from blockyard_server.audit_output import AuditOutput, audit_lines_on_stderr, dropped_lines
from blockyard_server.rpc.audit_log import LOGGER, write_line


def test_each_line_is_a_json_object_and_all_are_written_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with audit_lines_on_stderr():
        for number in range(100):
            write_line(logging.INFO, "denied", number=number)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert [line["number"] for line in lines] == list(range(100))


def test_a_line_without_room_is_counted_and_nobody_waits() -> None:
    output, logger = AuditOutput(waiting=2), logging.getLogger(LOGGER)
    logger.addHandler(output)
    logger.setLevel(logging.INFO)
    try:
        for number in range(5):
            write_line(logging.INFO, "denied", number=number)
        assert dropped_lines() == 3
    finally:
        logger.removeHandler(output)
