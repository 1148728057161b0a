"""The clock that leases are counted on: it never goes back, and it goes on while the machine is suspended.

The server's clock goes on meanwhile, and `time.monotonic` does not: after a sleep it would take a lease for young that
has ended long ago.
"""

import sys
import time
from typing import Final

_NAMES: Final = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}
_CLOCK: Final[int | None] = getattr(time, _NAMES.get(sys.platform, ""), None)
"""None elsewhere: the monotonic clock of Windows goes on by itself."""


def lease_now() -> float:
    """Seconds since some moment of the past."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
