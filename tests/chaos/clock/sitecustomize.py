"""A wall clock that is wrong: with this folder on PYTHONPATH a process starts with its clock off by CHAOS_CLOCK_S."""

import os
import sys
import time

_shift_ns = int(os.environ.get("CHAOS_CLOCK_S", "0")) * 1_000_000_000
_time_ns = time.time_ns


def _shifted_time_ns() -> int:
    return _time_ns() + _shift_ns


def _shifted_time() -> float:
    return _shifted_time_ns() / 1e9


if _shift_ns:
    time.time_ns = _shifted_time_ns
    time.time = _shifted_time
    off_s = round((time.time_ns() - _time_ns()) / 1e9)
    sys.stderr.write(f"chaos: the wall clock is off by {off_s} s\n")
