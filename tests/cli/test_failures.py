"""Every failure becomes a sentence, a next step and an exit code."""

import json

import pytest
from typer import BadParameter

from blockyard._call import AGAIN, LOOK
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


def test_servers_that_run_and_do_not_serve_are_not_to_be_started() -> None:
    text = "connections to all backends failing; last error: UNAVAILABLE: ipv4:127.0.0.1:7350: backend unhealthy"
    unhealthy = explain(Unavailable(text, status="UNAVAILABLE"))
    refused = explain(Unavailable("Failed to connect", status="UNAVAILABLE"))

    assert unhealthy.next_step.startswith("The servers run but do not serve now: ")
    assert "blockyard serve" not in unhealthy.next_step
    assert "blockyard serve" in refused.next_step


def test_an_answer_that_is_late_asks_for_more_time_and_not_for_a_server() -> None:
    late = explain(DeadlineExceeded("Deadline Exceeded", status="DEADLINE_EXCEEDED"))

    assert "--timeout" in late.next_step
    assert "blockyard serve" not in late.next_step


def test_an_unknown_outcome_says_what_to_do_on_the_command_line() -> None:
    again = explain(OutcomeUnknown(f"the outcome of Renew is unknown (x); {AGAIN}", call="Renew", advice=AGAIN))
    look = explain(OutcomeUnknown(f"the outcome of UpdateFleet is unknown (x); {LOOK}", advice=LOOK))

    assert (again.message, again.exit_code) == ("the outcome of Renew is unknown (x).", ExitCode.NO_ANSWER)
    assert again.next_step.startswith("Give the same command again: ")
    assert look.next_step.startswith("Look whether it was done ")


def test_an_acquire_without_an_answer_says_the_command_that_cancels_it() -> None:
    advice = "acquire again with token 'out 1', or release_by_token('gpu', 'out 1')"
    unknown = OutcomeUnknown(f"the outcome of Acquire is unknown (x); {advice}", advice=advice, token="out 1")

    plain, scoped = (explain(unanswered_acquire(unknown, "gpu", caller)) for caller in (None, "mine"))

    assert (plain.message, plain.exit_code) == ("the outcome of Acquire is unknown (x).", ExitCode.NO_ANSWER)
    assert plain.next_step.startswith("`blockyard release --fleet gpu --token 'out 1'` gives up ")
    assert scoped.next_step.startswith("`blockyard release --fleet gpu --token 'out 1' --caller mine` gives up ")


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
