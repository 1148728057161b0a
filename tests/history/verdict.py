"""Both checkers on one recorded history, in words."""

import sys
import time
from pathlib import Path

from tests.history.black_box import check_black_box
from tests.history.files import read_history
from tests.history.witness import check_with_witness

START = time.monotonic()


def say(line: str) -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(f"{time.monotonic() - START:7.1f} s  {line}\n")


def report(line: str) -> None:
    """A result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def check(folder: Path) -> bool:
    """Both checkers on one recorded history; prints what they found."""
    history = read_history(folder)
    begun = time.monotonic()
    witness = check_with_witness(history, say)
    report(
        f"{folder.name}: checker A: {witness.ops} calls, {witness.unknown} without an answer, of which"
        f" {witness.took_effect} took effect; {witness.changes} changes replayed, by the server itself"
        f" {dict(witness.by_server)}; {len(witness.violations)} violations; {time.monotonic() - begun:.0f} s"
    )
    begun = time.monotonic()
    seen = check_black_box(history, say)
    report(
        f"{folder.name}: checker B: {seen.intents} intents searched, {seen.intents_skipped} skipped;"
        f" {seen.windows} windows of instances searched, {seen.windows_skipped} skipped, with {seen.effects} effects"
        f" and {seen.sightings} sightings; {seen.unsettled} unsettled; {len(seen.violations)} violations;"
        f" {time.monotonic() - begun:.0f} s"
    )
    for violation in [*witness.violations, *seen.violations]:
        report(f"  {violation}")
    return witness.linearizable and seen.linearizable and not seen.unsettled
