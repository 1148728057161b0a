"""Runs a command: turns every failure into a sentence on stderr and an exit code, and never lets a traceback out."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from blockyard.cli.failures import EndsWith, ExitCode, Explanation, OutputClosed, explain
from blockyard.cli.safe_text import safe


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name, and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    try:
        from blockyard.cli.app import app  # noqa: PLC0415  # a Ctrl-C while the SDK is loading is caught here

        code = app(args=words, prog_name="blockyard", standalone_mode=False)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        _drop_output()
        return ExitCode.OUTPUT_CLOSED
    except EndsWith as ending:
        return ending.code
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the last line of defence: whatever it is, the user gets a sentence
        return _report(error, as_json=_wants_json(words))
    if code == ExitCode.INTERRUPTED:
        _complain("Interrupted.\n")
    return int(code or ExitCode.DONE)


def render_failure(explanation: Explanation, *, as_json: bool) -> str:
    """The text for stderr: one or two lines, or one JSON document."""
    if as_json:
        fault = {
            "reason": explanation.reason,
            "status": explanation.status,
            "message": explanation.message,
            "next_step": explanation.next_step,
            "metadata": dict(explanation.metadata),
            "exit_code": int(explanation.exit_code),
        }
        return json.dumps({"error": fault}, indent=2) + "\n"
    title = f"Error ({explanation.reason})" if explanation.reason else "Error"
    lines = [f"{title}: {explanation.message}"]
    if explanation.next_step:
        lines.append(f"Next: {explanation.next_step}")
    return "".join(f"{safe(line)}\n" for line in lines)


def _report(error: Exception, *, as_json: bool) -> int:
    explanation = explain(error)
    if os.environ.get("BLOCKYARD_TRACEBACK"):
        _complain("".join(f"{safe(line)}\n" for line in "".join(traceback.format_exception(error)).split("\n")))
    _complain(render_failure(explanation, as_json=as_json))
    try:
        sys.stdout.flush()
    except OSError:
        # A full disk, and the words above are about it.
        _drop_output()
    return explanation.exit_code


def _open_closed_streams() -> None:
    """Replaces streams that were closed before the start (`2>&-`): what is written to them is dropped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # until the end


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody listens on stderr either; the exit code says it still.
        return


def _drop_output() -> None:
    """Lets the interpreter flush its buffer into nothing at exit, instead of complaining about the closed pipe."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return


def _wants_json(words: Sequence[str]) -> bool:
    """Whether the arguments ask for JSON, even where they are too wrong to be parsed."""
    own = words[: words.index("--")] if "--" in words else words
    chosen = os.environ.get("BLOCKYARD_OUTPUT", "")
    for place, word in enumerate(own):
        if word in ("--output", "-o"):
            chosen = own[place + 1] if place + 1 < len(own) else ""
        elif word.startswith("--output="):
            chosen = word.partition("=")[2]
    return chosen.lower() == "json"
