"""Every failure becomes a sentence, a next step and an exit code."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter

from blockyard import RetryPolicy, cli, operations
from blockyard._allocator import batch
from blockyard._call import Call
from blockyard._fleet_admin import create_fleet, delete_fleet, update_fleet
from blockyard._retry import Attempts
from blockyard.cli.entry import render_failure
from blockyard.cli.failures import NEXT_STEPS, CommandFailed, ExitCode, Recoded, explain, unanswered_acquire
from blockyard.cli.option_values import MalformedValue
from blockyard.cli.replay_log import MalformedLog
from blockyard.errors import (
    BY_REASON,
    CallFailed,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    LeaseLost,
    NoCapacity,
    OutcomeUnknown,
    Unavailable,
)
from blockyard.reasons import REASONS, Reason

READERS = {"startswith", "endswith", "removesuffix", "removeprefix", "find", "index", "split", "partition", "replace"}


def reads_a_message(node: ast.AST) -> bool:
    """Whether this looks into `str(…)`: a part of it is searched, compared or cut off."""
    match node:
        case ast.Compare():
            return any(is_message(each) for each in (node.left, *node.comparators))
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in READERS and is_message(value):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"))):
            return any(is_message(each) for each in node.args)
        case _:
            return False


def is_message(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="str"), args=[ast.Name()]):
            return True
        case _:
            return False


def test_the_table_has_every_reason_and_no_other() -> None:
    assert set(NEXT_STEPS) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_says_what_to_do_next(reason: Reason) -> None:
    failure = BY_REASON[reason]("It did not work", reason=reason, status=REASONS[reason].status)

    explanation = explain(failure)

    assert explanation.next_step == NEXT_STEPS[reason]
    assert explanation.next_step.endswith(".")
    assert explanation.reason == reason
    assert explanation.exit_code is not ExitCode.DONE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoCapacity("x", reason="NO_CAPACITY"), ExitCode.NO_CAPACITY),
        (Unavailable("x", status="UNAVAILABLE"), ExitCode.NO_ANSWER),
        (DeadlineExceeded("x", status="DEADLINE_EXCEEDED"), ExitCode.NO_ANSWER),
        (OutcomeUnknown("x"), ExitCode.NO_ANSWER),
        (LeaseLost("x"), ExitCode.REFUSED),
        (CallFailed("x", reason="A_REASON_OF_A_NEWER_SERVER"), ExitCode.REFUSED),
        (MalformedValue("x"), ExitCode.USAGE),
        (MalformedLog("x"), ExitCode.USAGE),
        (BadParameter("x"), ExitCode.USAGE),
        (FileNotFoundError(2, "No such file or directory", "/nowhere"), ExitCode.USAGE),
        (OSError(28, "No space left on device"), ExitCode.OUTPUT_CLOSED),
        (CommandFailed("x", exit_code=ExitCode.NOT_FOUND), ExitCode.NOT_FOUND),
        (Recoded(NoCapacity("x"), ExitCode.RUN_FAILED), ExitCode.RUN_FAILED),
        (ZeroDivisionError("x"), ExitCode.FAULT),
    ],
)
def test_the_exit_code_tells_the_kinds_of_failure_apart(error: Exception, code: ExitCode) -> None:
    assert explain(error).exit_code is code


def test_what_is_no_answer_of_blockyard_says_where_to_look() -> None:
    stranger = explain(CallFailed("Received http2 header with status: 404", status="UNIMPLEMENTED"))
    newer = explain(CallFailed("x", reason="A_REASON_OF_A_NEWER_SERVER"))

    assert "--address" in stranger.next_step
    assert newer.next_step == ""


def test_what_to_do_next_does_not_depend_on_the_words_of_a_message() -> None:
    text = "connections to all backends failing; last error: UNAVAILABLE: ipv4:127.0.0.1:7350: backend unhealthy"
    unhealthy = explain(Unavailable(text, status="UNAVAILABLE"))
    refused = explain(Unavailable("Failed to connect", status="UNAVAILABLE"))

    assert unhealthy.next_step == refused.next_step
    assert "their database is away" in unhealthy.next_step
    assert "--address" in unhealthy.next_step


def test_the_command_line_reads_no_message_of_another_layer() -> None:
    files = sorted(Path(cli.__path__[0]).glob("*.py"))
    readers = {
        f"{path.name}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if reads_a_message(node)
    }

    assert len(files) > 40
    assert not readers


@pytest.mark.parametrize("text", ["'unhealthy' in str(error)", "str(error).removesuffix(x)", "re.search(x, str(e))"])
def test_reading_a_message_is_recognised(text: str) -> None:
    assert any(reads_a_message(node) for node in ast.walk(ast.parse(text)))


def test_an_answer_that_is_late_asks_for_more_time_and_not_for_a_server() -> None:
    late = explain(DeadlineExceeded("Deadline Exceeded", status="DEADLINE_EXCEEDED"))

    assert "--timeout" in late.next_step
    assert "blockyard serve" not in late.next_step


def unknown(call: Call[Any]) -> OutcomeUnknown:
    """What the SDK raises for a call whose only attempt got no answer."""
    attempts = Attempts(call, RetryPolicy(), deadline=0.0)
    with pytest.raises(OutcomeUnknown) as raised:
        attempts.pause_s(Unavailable("no connection", status="UNAVAILABLE"), now=1.0, jitter=0.0)
    return raised.value


@pytest.mark.parametrize(
    ("call", "next_step"),
    [
        (operations.renew("fleets/gpu/allocations/1"), "Give the same command again: "),
        (create_fleet("gpu"), "Give the same command again: "),
        (delete_fleet("gpu"), "Look whether it was done "),
        (update_fleet("gpu", max_ttl=60, etag="1"), "Look whether it was done "),
        (batch([operations.renew("fleets/gpu/allocations/1")]), "Run it again, in a fresh fleet."),
        (operations.acquire("gpu", holder="a", token="t"), "acquire again with token 't', or release_by_token("),
    ],
)
def test_an_unknown_outcome_says_what_to_do_on_the_command_line(call: Call[Any], next_step: str) -> None:
    explained = explain(unknown(call))

    assert explained.message == f"the outcome of {call.method} is unknown (no connection)."
    assert explained.next_step.startswith(next_step)
    assert explained.exit_code is ExitCode.NO_ANSWER


def test_an_acquire_without_an_answer_says_the_command_that_cancels_it() -> None:
    lost = unknown(operations.acquire("gpu", holder="a", token="out 1"))

    plain, scoped = (explain(unanswered_acquire(lost, "gpu", caller)) for caller in (None, "mine"))

    assert (plain.message, plain.exit_code) == (
        "the outcome of Acquire is unknown (no connection).",
        ExitCode.NO_ANSWER,
    )
    assert plain.next_step.startswith("`blockyard release --fleet gpu --token 'out 1'` cancels it")
    assert scoped.next_step.startswith("`blockyard release --fleet gpu --token 'out 1' --caller mine` cancels it")


def test_malformed_fields_are_named() -> None:
    violations = (FieldViolation("demands[0].blocks", "must be 1 to 4096"), FieldViolation("holder", "is missing"))

    explanation = explain(InvalidRequest("2 fields", reason="INVALID_REQUEST", field_violations=violations))

    assert explanation.message == "demands[0].blocks: must be 1 to 4096; holder: is missing."


def test_a_message_becomes_one_line_that_ends_as_a_sentence() -> None:
    assert explain(CallFailed("first\nsecond")).message == "first second."
    assert explain(CallFailed("done.")).message == "done."


def test_text_has_the_reason_and_the_next_step() -> None:
    text = render_failure(explain(NoCapacity("Only 1 block is idle", reason="NO_CAPACITY")), as_json=False)

    assert text.splitlines()[0] == "Error (NO_CAPACITY): Only 1 block is idle."
    assert text.splitlines()[1].startswith("Next: `blockyard describe FLEET`")


def test_json_is_one_document_with_every_part() -> None:
    failure = NoCapacity(
        "Only 1 block is idle", reason="NO_CAPACITY", status="RESOURCE_EXHAUSTED", metadata={"idle_blocks": "1"}
    )

    error = json.loads(render_failure(explain(failure), as_json=True))["error"]

    assert set(error) == {"reason", "status", "message", "next_step", "metadata", "exit_code"}
    assert (error["reason"], error["status"], error["exit_code"]) == ("NO_CAPACITY", "RESOURCE_EXHAUSTED", 4)
    assert error["metadata"] == {"idle_blocks": "1"}
